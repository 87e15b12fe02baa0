"""Every error that bad input can cause. The command line turns each into one message and exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


class PipesimError(Exception):
    """Base of all errors that a user's input can cause."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a config: where, what was found, what is allowed, what was probably meant."""

    path: str
    message: str
    found: str | None = None
    allowed: str | None = None
    nearest: str | None = None

    def __str__(self) -> str:
        parts = [f"{self.path}: {self.message}" if self.path else self.message]
        if self.found is not None:
            parts.append(f"found {self.found}")
        if self.allowed is not None:
            parts.append(f"allowed: {self.allowed}")
        if self.nearest is not None:
            parts.append(f"did you mean {self.nearest}?")
        return "; ".join(parts)


@dataclass
class ConfigError(PipesimError):
    """A config that cannot be used, with every problem found in it."""

    problems: Sequence[Problem]
    source: str | None = field(default=None)

    def __str__(self) -> str:
        head = f"{self.source}: " if self.source else ""
        count = len(self.problems)
        lines = [f"{head}{count} problem{'s' if count != 1 else ''} in the config"]
        lines += [f"  {problem}" for problem in self.problems]
        return "\n".join(lines)


class ScheduleError(PipesimError):
    """A schedule cannot run with these numbers; the message says which numbers would do."""


class ProgramError(PipesimError):
    """A program breaks a rule: an op is missing, repeated, on the wrong rank, or waits for itself."""


class DeadlockError(ProgramError):
    """No rank can go on; the message says what each rank waits for."""


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate closest to ``word``, else the first that begins with it, or None when nothing is close."""
    names = list(candidates)
    matches = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.5)
    begun = [name for name in names if len(word) > 1 and name.startswith(word.lower())]
    return next(iter([*matches, *begun]), None)
