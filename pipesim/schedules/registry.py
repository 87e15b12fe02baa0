"""The table of schedules: built-in ones by module, users' own by decorator, entry point or path."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from pipesim.errors import PipesimError, ScheduleError, nearest
from pipesim.ir.placement import Placement, linear, vee
from pipesim.ir.program import OpLike, Program
from pipesim.ir.verify import verify
from pipesim.schedules import user_files
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
    "pipe-offload": "pipe_offload",
    "dualpipe": "dualpipe",
    "dualpipe-v": "dualpipe",
    "pipedream": "asynchronous",
    "pipedream-2bw": "asynchronous",
    "layerpipe2": "asynchronous",
    "helix": "helix",
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
_defined_in: dict[str, dict[str, type[Schedule]]] = {}
"""Module -> the schedules that it registered: two users' files may use the same name."""


def register(cls: type[Schedule]) -> type[Schedule]:
    """Make a schedule class available under its name; usable as a decorator.

    Raises:
        ScheduleError: it has no name, or that of a built-in schedule.
    """
    if not cls.name:
        raise ScheduleError(f"{cls.__name__} needs a name to be registered")
    taken = {**_FAMILIES, **_ALIASES}
    if cls.name in taken and not cls.__module__.startswith(f"{__package__}."):
        raise ScheduleError(f"{cls.name!r} is a built-in schedule; choose another name for {cls.__name__}")
    _registered[cls.name] = cls
    _defined_in.setdefault(cls.__module__, {})[cls.name] = cls
    return cls


def names() -> list[str]:
    """All schedule names, built-in ones first."""
    found = dict.fromkeys([*_FAMILIES, *_registered, *_plugins()])
    return list(found)


def aliases() -> dict[str, str]:
    """Other names that scripts may use -> the schedule that they mean."""
    return {alias: name for alias, (name, _) in _ALIASES.items()}


def in_file(name: str) -> bool:
    """Whether ``name`` is of the form ``path/to/file.py:schedule``, or was meant to be."""
    return user_files.is_reference(name)


def get(name: str) -> type[Schedule]:
    """The schedule class called ``name``.

    ``name`` may also be ``path/to/file.py:schedule``, which runs that file and takes the schedule that it
    registers under this name, or from the function or class of this name.

    Raises:
        ScheduleError: there is none; the message names the nearest.
    """
    if in_file(name):
        return _from_file(*user_files.parse(name))
    key = aliases().get(name, name)
    if key not in _registered and key in _FAMILIES:
        importlib.import_module(f"pipesim.schedules.{_FAMILIES[key]}")
    if key not in _registered and key in _plugins():
        _load_plugin(key)
    if key not in _registered:
        hint = nearest(name, [*names(), *_ALIASES])
        raise ScheduleError(
            f"no schedule is called {name!r}; allowed: {', '.join(names())}"
            + (f"; did you mean {hint!r}?" if hint else "")
        )
    return _registered[key]


def _from_file(path: str, wanted: str) -> type[Schedule]:
    found = _defined_in.get(user_files.run(path), {})
    for name, cls in found.items():
        if wanted in (name, cls.__name__):
            return cls
    if not found:
        raise ScheduleError(f"{path} registers no schedule; decorate a function in it with @schedule({wanted!r})")
    hint = nearest(wanted, [*found, *(cls.__name__ for cls in found.values())])
    raise ScheduleError(
        f"{path} registers no schedule {wanted!r}; it has: {', '.join(found)}"
        + (f"; did you mean {hint!r}?" if hint else "")
    )


def _load_plugin(name: str) -> None:
    """Import what an entry point names: a module that registers the schedule, or a schedule class."""
    point = _plugins()[name]
    try:
        loaded = point.load()
    except Exception as error:
        raise ScheduleError(f"schedule {name!r} cannot be loaded from {point.value}: {error}") from error
    if name not in _registered and isinstance(loaded, type) and issubclass(loaded, Schedule):
        _registered[name] = loaded
    if name not in _registered:
        raise ScheduleError(f"the entry point {name} = {point.value} registers no schedule of that name")


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
    for key, f in known.items():
        if key not in chosen and f.default is MISSING and f.default_factory is MISSING:
            raise ScheduleError(f"schedule {name!r} needs the option {key!r}: {f.metadata.get('help', '')}")
    return cls(**{known[key].name: value for key, value in chosen.items()})


@cache
def _plugins() -> dict[str, Any]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


_SOME_RANKS = 4
"""A placement puts equally many stages on each rank, whatever their number; asked with this one."""

OrderFunction = Callable[[int, int, int], Iterable[OpLike]]


_PLACEMENTS: dict[str, Callable[[int], Placement]] = {"linear": linear, "vee": vee}


def schedule(
    name: str, *, placement: str | Callable[[int], Placement] = "linear", citation: str = ""
) -> Callable[[OrderFunction], OrderFunction]:
    """Register a function ``order(rank, ranks, microbatches)`` that yields a rank's ops as a schedule.

    Ops may be tokens such as ``"2F5"``. ``placement`` is ``linear`` (rank r holds stage r), ``vee`` (rank r of R
    holds stages r and 2R - 1 - r), or maps the number of ranks to a `Placement`.

    Raises:
        ScheduleError: the placement is unknown, or the name is taken.
    """
    place = _placement(placement)

    def decorate(function: OrderFunction) -> OrderFunction:
        @dataclass(frozen=True)
        class UserSchedule(Schedule):
            def placement(self, ranks: int) -> Placement:
                return place(ranks)

            def chunks_per_rank(self) -> int:
                return place(_SOME_RANKS).stages // _SOME_RANKS

            def program(self, setting: Setting) -> Program:
                made = super().program(setting)
                verify(made)
                return made

            def order(self, rank: int, setting: Setting) -> Iterable[OpLike]:
                try:
                    return list(function(rank, setting.ranks, setting.microbatches))
                except PipesimError:
                    raise
                except Exception as error:
                    raise ScheduleError(
                        f"schedule {name!r} failed for rank {rank} of {setting.ranks} with {setting.microbatches} "
                        f"micro-batches: {type(error).__name__}: {error}"
                    ) from error

        UserSchedule.name, UserSchedule.citation = name, citation
        UserSchedule.summary = (function.__doc__ or "").strip().partition("\n")[0]
        UserSchedule.__name__ = UserSchedule.__qualname__ = function.__name__
        UserSchedule.__module__ = function.__module__
        register(UserSchedule)
        return function

    return decorate


def _placement(placement: str | Callable[[int], Placement]) -> Callable[[int], Placement]:
    if not isinstance(placement, str):
        return placement
    if placement not in _PLACEMENTS:
        hint = nearest(placement, _PLACEMENTS)
        raise ScheduleError(
            f"no placement is called {placement!r}; allowed: {', '.join(_PLACEMENTS)}, or a function of the number "
            "of ranks" + (f"; did you mean {hint!r}?" if hint else "")
        )
    return _PLACEMENTS[placement]
