"""A `Model` from whatever a config says: a catalog name, a path to a config.json, or a mapping."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipesim.errors import ConfigError, Problem
from pipesim.workload.huggingface import is_huggingface, model_from_huggingface
from pipesim.workload.load import model_from_catalog, model_from_mapping
from pipesim.workload.model import Model


def build_model(given: str | Mapping[str, Any]) -> Model:
    """The model that ``given`` names or describes.

    A string ending in ``.json`` is the path of a Hugging Face config (or of our own fields), any other a name
    in the catalog. A mapping is either kind of description; a Hugging Face one may also say ``sequence``.

    Raises ConfigError with problems at paths under ``model``.
    """
    if isinstance(given, Mapping):
        return _from_mapping(given, "custom")
    if not isinstance(given, str):
        allowed = "a catalog name, a path to a config.json, or a mapping"
        raise ConfigError([Problem("model", "is not usable", repr(given), allowed)])
    if given.endswith(".json"):
        return _from_mapping(_read(Path(given)), Path(given).parent.name or Path(given).stem)
    return model_from_catalog(given)


def _from_mapping(mapping: Mapping[str, Any], name: str) -> Model:
    if is_huggingface(mapping):
        return model_from_huggingface(mapping, mapping.get("sequence"), mapping.get("name", name))
    return model_from_mapping(mapping, name)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([Problem("model", f"cannot be read: {error.strerror}", str(path))]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem("model", "is not UTF-8 text", str(path))]) from error
    except json.JSONDecodeError as error:
        message = f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise ConfigError([Problem("model", message, str(path))]) from error
    if not isinstance(content, Mapping):
        raise ConfigError([Problem("model", "is not a JSON object", str(path))])
    return content
