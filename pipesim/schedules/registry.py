"""The table of schedules: built-in ones by module, users' own by decorator or entry point."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from pipesim.errors import ScheduleError, nearest
from pipesim.ir.placement import Placement, linear
from pipesim.ir.program import OpLike
from pipesim.schedules.base import Schedule, Setting
from pipesim.schedules.base import options as options_of

ENTRY_POINTS = "pipesim.schedules"

_FAMILIES: dict[str, str] = {
    "gpipe": "gpipe",
    "1f1b": "one_f_one_b",
    "interleaved-1f1b": "interleaved",
    "breadth-first": "breadth_first",
    "chimera": "chimera",
    "bitpipe": "bitpipe",
    "gems": "gems",
    "hanayo": "hanayo",
    "zb-h1": "zero_bubble",
    "zb-h2": "zero_bubble",
    "zb-auto": "zero_bubble_auto",
    "zb-v": "zero_bubble_v",
    "v-half": "controllable_memory",
    "v-min": "controllable_memory",
    "v-adaptive": "controllable_memory",
    "interleaved-zb": "interleaved_zero_bubble",
    "gis": "grouped_interleaved",
    "gis-h": "grouped_interleaved",
    "dualpipe": "dualpipe",
    "dualpipe-v": "dualpipe",
    "custom": "custom",
}
"""Name -> module of this package that defines it."""

_ALIASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dapple": ("1f1b", {}),
    "depth-first": ("interleaved-1f1b", {}),
    "looped-bfs": ("breadth-first", {}),
    "zb-1p": ("zb-auto", {"memory_limit": 1.0}),
    "zb-2p": ("zb-auto", {"memory_limit": 2.0}),
}
"""Other names that scripts may use -> the schedule that they mean, and options preset."""

_registered: dict[str, type[Schedule]] = {}


def register(cls: type[Schedule]) -> type[Schedule]:
    """Make a schedule class available under its name; usable as a decorator."""
    if not cls.name:
        raise ScheduleError(f"{cls.__name__} needs a name to be registered")
    _registered[cls.name] = cls
    return cls


def names() -> list[str]:
    """All schedule names, built-in ones first."""
    found = dict.fromkeys([*_FAMILIES, *_registered, *_plugins()])
    return list(found)


def aliases() -> dict[str, str]:
    """Other names that scripts may use -> the schedule that they mean."""
    return {alias: name for alias, (name, _) in _ALIASES.items()}


def get(name: str) -> type[Schedule]:
    """The schedule class called ``name``.

    Raises:
        ScheduleError: there is none; the message names the nearest.
    """
    key = aliases().get(name, name)
    if key not in _registered and key in _FAMILIES:
        importlib.import_module(f"pipesim.schedules.{_FAMILIES[key]}")
    if key not in _registered and key in _plugins():
        _plugins()[key].load()
    if key not in _registered:
        hint = nearest(name, [*names(), *_ALIASES])
        raise ScheduleError(f"no schedule is called {name!r}" + (f"; did you mean {hint!r}?" if hint else ""))
    return _registered[key]


def create(name: str, **options: Any) -> Schedule:
    """A schedule with its options set.

    Raises:
        ScheduleError: the name or an option is unknown.
    """
    cls = get(name)
    known = options_of(cls)
    for key in options:
        if key not in known:
            hint = nearest(key, known)
            allowed = ", ".join(known) or "none"
            raise ScheduleError(
                f"schedule {name!r} has no option {key!r}; allowed: {allowed}"
                + (f"; did you mean {hint!r}?" if hint else "")
            )
    _, preset = _ALIASES.get(name, (name, {}))
    chosen = {**preset, **options}
    return cls(**{known[key].name: value for key, value in chosen.items()})


@cache
def _plugins() -> dict[str, Any]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


OrderFunction = Callable[[int, int, int], Iterable[OpLike]]


def schedule(
    name: str, *, placement: Callable[[int], Placement] = linear, citation: str = ""
) -> Callable[[OrderFunction], OrderFunction]:
    """Register a function ``order(rank, ranks, microbatches)`` that yields a rank's ops as a schedule.

    Ops may be tokens such as ``"2F5"``. ``placement`` maps the number of ranks to a `Placement`.
    """

    def decorate(function: OrderFunction) -> OrderFunction:
        @dataclass(frozen=True)
        class Custom(Schedule):
            def placement(self, ranks: int) -> Placement:
                return placement(ranks)

            def order(self, rank: int, setting: Setting) -> Iterable[OpLike]:
                return function(rank, setting.ranks, setting.microbatches)

        Custom.name, Custom.citation, Custom.summary = name, citation, (function.__doc__ or "").strip()
        Custom.__name__ = Custom.__qualname__ = function.__name__
        register(Custom)
        return function

    return decorate
