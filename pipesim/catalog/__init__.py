"""Data only: GPUs, links, models and measured tables, one YAML file per kind, every entry with its source."""

from __future__ import annotations

import copy
import csv
from functools import cache
from importlib import resources
from typing import Any

import yaml

# The C parser is ten times faster; the pure Python one is the fallback where libyaml is missing.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(kind: str) -> dict[str, dict[str, Any]]:
    """All entries of ``kind`` (``gpus``, ``links``, ``collectives``, ...) by name, as the file has them.

    The file is parsed once; the caller gets a copy. Raises FileNotFoundError for an unknown kind.
    """
    return copy.deepcopy(_parsed(kind))


def names(kind: str) -> list[str]:
    """The names of ``kind``, in the file's order."""
    return list(_parsed(kind))


@cache
def _parsed(kind: str) -> dict[str, dict[str, Any]]:
    text = resources.files(__name__).joinpath(f"{kind}.yaml").read_text(encoding="utf-8")
    entries: dict[str, dict[str, Any]] = yaml.load(text, Loader=_Loader)
    return entries


def table(name: str) -> list[dict[str, str]]:
    """The rows of a CSV file of the catalog, such as ``measurements/nemo-2024``, as text by column."""
    text = resources.files(__name__).joinpath(f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
