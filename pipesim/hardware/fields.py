"""Reads a mapping field by field and collects everything that is wrong with it, each with its path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pipesim.errors import Problem, nearest
from pipesim.units import EXAMPLES, Dimension, UnitError, parse

# Stands in for a value that could not be read, so that reading goes on and finds the other problems.
UNREADABLE = 1.0


class Fields:
    """One mapping of a config (or of the catalog) at ``path``; problems are appended to a shared list."""

    def __init__(self, data: object, path: str, problems: list[Problem]) -> None:
        self.path = path
        self.problems = problems
        self.data: Mapping[str, Any] = {}
        if isinstance(data, Mapping):
            self.data = data
        else:
            self.report("", "must be a mapping", found=repr(data))
            self.problems = []  # what is missing inside goes without saying

    def report(
        self,
        key: str,
        message: str,
        found: str | None = None,
        allowed: str | None = None,
        near: str | None = None,
    ) -> None:
        """Note a problem with ``key`` (or with the mapping itself when empty)."""
        path = f"{self.path}.{key}" if key else self.path
        self.problems.append(Problem(path, message, found, allowed, near))

    def only(self, allowed: Iterable[str]) -> None:
        """Report every key that is not in ``allowed``."""
        names = list(allowed)
        for key in self.data:
            if key not in names:
                self.report(str(key), "unknown key", allowed=", ".join(names), near=nearest(str(key), names))

    def quantity(self, key: str, dimension: Dimension, default: object = None, *, positive: bool = True) -> float:
        """A number with a unit, in SI; ``default`` (same notation) when absent."""
        value = self.data.get(key, default)
        if value is None:
            self.report(key, "is missing", allowed=EXAMPLES[dimension])
            return UNREADABLE
        try:
            return parse(value, dimension, positive=positive)
        except UnitError as error:
            self.report(key, error.message, error.found, error.allowed, error.nearest)
            return UNREADABLE

    def count(self, key: str, default: object = None) -> int:
        """A whole number of at least 1."""
        value = self.data.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
        self.report(key, "must be a whole number of at least 1", found=repr(value))
        return 1

    def number(self, key: str, *, above: float, at_most: float) -> float:
        """A plain number in (above, at_most]."""
        value = self.data.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and above < value <= at_most:
            return float(value)
        self.report(key, "out of range", found=repr(value), allowed=f"more than {above:g}, at most {at_most:g}")
        return UNREADABLE

    def deviation(self, key: str, *, at_most: float) -> float:
        """A plain number in [0, at_most]."""
        value = self.data.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= at_most:
            return float(value)
        self.report(key, "out of range", found=repr(value), allowed=f"0 to {at_most:g}")
        return 0.0

    def name(self, key: str, known: Iterable[str], default: object = None) -> str:
        """One of the ``known`` names."""
        names = list(known)
        value = self.data.get(key, default)
        if value in names:
            return str(value)
        self.report(key, "unknown name", found=repr(value), allowed=", ".join(names), near=nearest(str(value), names))
        return names[0]

    def inside(self, key: str) -> Fields:
        """The mapping under ``key``."""
        return Fields(self.data.get(key, {}), f"{self.path}.{key}", self.problems)
