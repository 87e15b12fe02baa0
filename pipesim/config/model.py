"""The ``model`` of a config: a catalog name, a path to a Hugging Face config.json, or a mapping of fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipesim.config.reading import MAX_FILE_BYTES, describe, nearest_file
from pipesim.errors import ConfigError, Problem, nearest

if TYPE_CHECKING:
    from pipesim.workload.model import Model

LARGEST = 10**7
"""No size of a model is larger, so that arithmetic that loops over one ends."""
_LARGEST = {"layers": 10**5, "num_hidden_layers": 10**5, "n_layer": 10**5}

ModelSpec = str | dict[str, Any]
"""A name, a path, or fields; ``base`` is a name or a path that the other fields change."""


def build_model(spec: ModelSpec, directory: Path) -> Model:
    """The model that a config describes; paths are relative to ``directory``.

    Raises ConfigError with every problem found, at paths under ``model``.
    """
    from pipesim.workload.load import model_from_mapping

    _refuse_absurd(spec)
    if isinstance(spec, str):
        return _named(spec, directory, {}, "model")
    changes = {key: value for key, value in spec.items() if key != "base"}
    if "base" not in spec:
        return model_from_mapping(spec)
    base = spec["base"]
    if not isinstance(base, str):
        raise ConfigError([Problem("model.base", "neither a name nor a path", repr(base))])
    return _named(base, directory, changes, "model.base")


def _refuse_absurd(fields: ModelSpec, path: str = "model") -> None:
    if isinstance(fields, str):
        return
    limits = [(key, value, _LARGEST.get(key, LARGEST)) for key, value in fields.items() if type(value) is int]
    problems = [
        Problem(f"{path}.{key}", "too large", describe(value), f"at most {limit}")
        for key, value, limit in limits
        if value > limit and "theta" not in key
    ]
    if problems:
        raise ConfigError(problems)


def _named(name: str, directory: Path, changes: Mapping[str, Any], path: str) -> Model:
    if name.endswith(".json") or "/" in name or "\\" in name:
        return _from_file(name, directory, changes, path)
    from pipesim import catalog
    from pipesim.workload.load import model_from_mapping

    entries = catalog.load("models")
    if name not in entries:
        allowed = ", ".join(entries) + ", or a path to a config.json"
        raise ConfigError([Problem(path, "not in the catalog of models", repr(name), allowed, nearest(name, entries))])
    return model_from_mapping({**entries[name], **changes}, name)


def _from_file(name: str, directory: Path, changes: Mapping[str, Any], path: str) -> Model:
    from pipesim.workload.huggingface import model_from_huggingface

    others = [key for key in changes if key != "sequence"]
    if others:
        message = "cannot be changed on a config.json; change the file"
        raise ConfigError([Problem(f"model.{key}", message, repr(changes[key]), "sequence") for key in others])
    content = _read_json(directory / name, name, path)
    _refuse_absurd(content)
    try:
        return model_from_huggingface(content, changes.get("sequence"), Path(name).stem)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        # a file from anywhere may have any type under any key
        raise ConfigError([Problem(path, f"a config.json with unusable values: {error!r}", repr(name))]) from None


def _read_json(file: Path, name: str, path: str) -> dict[str, Any]:
    expected = "a Hugging Face config.json, relative to the config"
    try:
        with file.open("rb") as stream:
            content = json.loads(stream.read(MAX_FILE_BYTES))
    except OSError as error:
        near = nearest_file(file) if isinstance(error, FileNotFoundError) else None
        problem = Problem(path, f"cannot be read: {error.strerror}", repr(name), expected, near)
        raise ConfigError([problem]) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError([Problem(path, f"not JSON: {error}", repr(name), expected)]) from None
    if not isinstance(content, dict):
        raise ConfigError([Problem(path, "not a JSON object", repr(name), expected)])
    return content
