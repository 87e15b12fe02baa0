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
    if isinstance(spec, str):
        return _named(spec, directory, {}, "model")
    _refuse_absurd(spec)
    changes = {key: value for key, value in spec.items() if key != "base"}
    if "base" not in spec:
        return _described(changes, {}, "custom", "model")
    if isinstance(spec["base"], str):
        return _named(spec["base"], directory, changes, "model.base")
    raise ConfigError([Problem("model.base", "neither a name nor a path", describe(spec["base"]))])


def _refuse_absurd(fields: Mapping[str, Any]) -> None:
    limits = [(key, value, _LARGEST.get(key, LARGEST)) for key, value in fields.items() if type(value) is int]
    problems = [
        Problem(f"model.{key}", "too large", describe(value), f"at most {limit}")
        for key, value, limit in limits
        if value > limit and "theta" not in key
    ]
    if problems:
        raise ConfigError(problems)


def _named(name: str, directory: Path, changes: Mapping[str, Any], path: str) -> Model:
    if name.endswith(".json") or "/" in name or "\\" in name:
        content = _read_json(directory / name, name, path)
        _refuse_absurd(content)
        return _described(content, changes, Path(name).stem, path)
    from pipesim import catalog

    entries = catalog.load("models")
    if name not in entries:
        allowed = ", ".join(entries) + ", or a path to a config.json"
        raise ConfigError([Problem(path, "not in the catalog of models", repr(name), allowed, nearest(name, entries))])
    return _described(entries[name], changes, name, path)


def _described(fields: Mapping[str, Any], changes: Mapping[str, Any], name: str, path: str) -> Model:
    """A model from our own fields, or from those of Hugging Face, of which only the sequence can be changed."""
    from pipesim.workload.huggingface import is_huggingface, model_from_huggingface
    from pipesim.workload.load import model_from_mapping

    if not is_huggingface(fields):
        return model_from_mapping({**fields, **changes}, name)
    others = [key for key in changes if key != "sequence"]
    if others:
        message = "cannot be changed on a config.json; change the file"
        raise ConfigError([Problem(f"model.{key}", message, describe(changes[key]), "sequence") for key in others])
    try:
        return model_from_huggingface(fields, changes.get("sequence", fields.get("sequence")), name)
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
