"""``--set a.b=c``: change one value of a config before it is checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipesim.config.reading import describe, parse_yaml
from pipesim.errors import ConfigError, Problem

_BARE = {"schedule": "name", "model": "base", "gpu": "base", "intra_node": "base", "inter_node": "base"}
"""Sections that may be a bare name, and the key that stands for it once they have others."""


def apply(config: dict[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], list[Problem]]:
    """A copy of ``config`` with every ``path=value`` set, and the problems of overrides that make no sense.

    Values are YAML; ``null`` takes a key out, back to its default. A path may enter a bare name
    (``schedule.chunks=2`` on ``schedule: 1f1b``) and lists (``training.partition.0=5``). Keys that do not exist
    are set all the same: checking the config finds them.
    """
    problems: list[Problem] = []
    for override in overrides:
        try:
            config = _set(config, *_split(override))
        except ConfigError as error:
            problems += [_relabel(problem, override) for problem in error.problems]
    return config, problems


def paths(overrides: Sequence[str]) -> list[str]:
    """The paths that the overrides set."""
    return [override.partition("=")[0].strip() for override in overrides]


def _relabel(problem: Problem, override: str) -> Problem:
    where = f" ({problem.path})" if problem.path else ""
    return Problem(f"--set {override}", problem.message + where, problem.found, problem.allowed, problem.nearest)


def _split(override: str) -> tuple[list[str], Any]:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError([Problem("", "not an assignment", allowed="path=value, such as schedule.chunks=2")])
    return keys, parse_yaml(text)


def _set(node: Any, keys: list[str], value: Any, parent: str = "") -> Any:
    """``node`` with the value at ``keys`` replaced; everything on the way is copied, nothing is changed."""
    if not keys:
        return value
    key, rest = keys[0], keys[1:]
    if isinstance(node, list):
        return _set_item(node, key, rest, value)
    if isinstance(node, str) and parent in _BARE:
        node = {_BARE[parent]: node}
    if node is not None and not isinstance(node, dict):
        raise ConfigError([Problem("", f"'{parent}' is a single value and has no '{key}'", describe(node))])
    copy = dict(node or {})
    if not rest and value is None:
        copy.pop(key, None)
        return copy
    copy[key] = _set(copy.get(key), rest, value, key)
    return copy


def _set_item(items: list[Any], key: str, rest: list[str], value: Any) -> list[Any]:
    if not key.isdecimal() or int(key) >= len(items):
        allowed = f"0 to {len(items) - 1}" if items else "nothing, the list is empty"
        raise ConfigError([Problem("", "no such item of the list", repr(key), allowed)])
    index = int(key)
    return [*items[:index], _set(items[index], rest, value), *items[index + 1 :]]
