"""Data only: GPUs, links, models and measured tables, one YAML file per kind, every entry with its source."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

import yaml

# The C parser is ten times faster; the pure Python one is the fallback where libyaml is missing.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(kind: str) -> Mapping[str, Mapping[str, Any]]:
    """All entries of ``kind`` (``gpus``, ``links``, ``collectives``, ...) by name, as the file has them.

    The file is parsed once, and nobody can change what all share. Raises FileNotFoundError for an unknown kind.
    """
    return _parsed(kind)


def copied(data: Any) -> Any:
    """A copy of part of an entry whose mappings are dicts that can be changed."""
    if isinstance(data, Mapping):
        return {key: copied(value) for key, value in data.items()}
    return [copied(each) for each in data] if isinstance(data, list) else data


def names(kind: str) -> list[str]:
    """The names of ``kind``, in the file's order."""
    return list(_parsed(kind))


@cache
def _parsed(kind: str) -> Mapping[str, Mapping[str, Any]]:
    text = resources.files(__name__).joinpath(f"{kind}.yaml").read_text(encoding="utf-8")
    entries: Mapping[str, Mapping[str, Any]] = _frozen(yaml.load(text, Loader=_Loader))
    return entries


def _frozen(data: Any) -> Any:
    """The same data with mappings that are read only; lists stay lists of such."""
    if isinstance(data, dict):
        return MappingProxyType({key: _frozen(value) for key, value in data.items()})
    return [_frozen(each) for each in data] if isinstance(data, list) else data


def table(name: str) -> list[dict[str, str]]:
    """The rows of a CSV file of the catalog, such as ``measurements/nemo-2024``, as text by column."""
    text = resources.files(__name__).joinpath(f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
