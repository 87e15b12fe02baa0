"""The ``schedule`` of a config: a name, or a mapping of a name and the schedule's own options.

What options there are is read off the schedule's dataclass, so that a new schedule, a user's own included, is
checked like the built-in ones without a word here. Schedules are imported when a config names one.
"""

from __future__ import annotations

import contextlib
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import PlainValidator, WithJsonSchema

from pipesim.config.section import LARGEST_COUNT, Fault, listed, refuse, refuse_all, unknown_key
from pipesim.errors import ScheduleError, nearest

if TYPE_CHECKING:
    from pipesim.schedules import Schedule as BuiltSchedule


@dataclass(frozen=True)
class Option:
    """One option of a schedule: the types it may have, or the choices, and what it is without being given."""

    name: str
    types: tuple[type, ...]
    choices: tuple[Any, ...] = ()
    default: Any = None
    required: bool = False
    minimum: int = 1
    help: str = ""

    @property
    def allowed(self) -> str:
        """For people: ``ascending, descending`` or ``a whole number of at least 1, or nothing``."""
        words = {
            bool: "true, false",
            int: f"a whole number of at least {self.minimum}",
            float: "a number of at least 0",
            str: "text",
            type(None): "nothing",
        }
        parts = [listed(map(str, self.choices))] if self.choices else []
        return ", or ".join(parts + [words[kind] for kind in words if kind in self.types])

    def accepts(self, value: Any) -> bool:
        """Whether the value has one of the types and lies within bounds; ``true`` is not the number 1."""
        if any(value == choice and type(value) is type(choice) for choice in self.choices):
            return True
        if isinstance(value, bool) or value is None or isinstance(value, str):
            return type(value) in self.types
        if isinstance(value, int) and int in self.types:
            return self.minimum <= value <= LARGEST_COUNT
        return float in self.types and isinstance(value, int | float) and 0 <= value < math.inf


@dataclass(frozen=True)
class ScheduleChoice:
    """A schedule by its own name (aliases resolved) and the value of every option."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> BuiltSchedule:
        """The schedule itself."""
        from pipesim import schedules

        return schedules.create(self.name, **self.options)

    def resolved(self) -> dict[str, Any]:
        """As a config would spell it out."""
        return {"name": self.name, **self.options}


def schedule_options(name: str) -> dict[str, Option]:
    """The options of a schedule by name. Raises ScheduleError for one that is unknown or cannot be loaded."""
    from pipesim import schedules

    cls = _load(name)
    hints = get_type_hints(cls)
    named = schedules.base.options(cls)
    return {name: _option(name, f, hints[f.name]) for name, f in named.items() if f.init}


def _load(name: str) -> type[BuiltSchedule]:
    from pipesim import schedules

    try:
        return schedules.get(name)
    except ScheduleError:
        raise
    except Exception as error:  # the module of a plug-in may fail in any way when it is imported
        raise ScheduleError(f"schedule {name!r} cannot be loaded: {error}") from None


def _option(name: str, field_: Any, annotation: Any) -> Option:
    kinds, choices = _kinds(annotation)
    required = field_.default is MISSING and field_.default_factory is MISSING
    return Option(
        name=name,
        types=kinds,
        choices=choices,
        default=None if required else field_.default,
        required=required,
        minimum=field_.metadata.get("minimum", 1),
        help=field_.metadata.get("help", ""),
    )


def _kinds(annotation: Any) -> tuple[tuple[type, ...], tuple[Any, ...]]:
    """Types and literal choices that an annotation stands for."""
    origin = get_origin(annotation)
    if origin is Literal:
        return (), get_args(annotation)
    if origin in (Union, types.UnionType):
        parts = [_kinds(part) for part in get_args(annotation)]
        return tuple(t for kinds, _ in parts for t in kinds), tuple(c for _, choices in parts for c in choices)
    return (annotation,), ()


def read_schedule(value: Any) -> ScheduleChoice:
    """Check a schedule's name and options and fill in the defaults."""
    if isinstance(value, ScheduleChoice):
        return value
    if isinstance(value, str):
        return _choose(value, {}, ())
    if not isinstance(value, Mapping):
        raise refuse("neither a name nor a mapping", "a schedule's name, or {name: ..., options}")
    if "name" not in value:
        from pipesim import schedules

        raise refuse_all([Fault(("name",), "is missing", None, listed(schedules.names()))])
    return _choose(value["name"], {key: option for key, option in value.items() if key != "name"}, ("name",))


def _choose(name: Any, given: Mapping[str, Any], where: tuple[str, ...]) -> ScheduleChoice:
    from pipesim import schedules

    faults = _name_faults(name, where) or _option_faults(given, schedule_options(name))
    if faults:
        raise refuse_all(faults)
    try:
        chosen = schedules.create(name, **given)
    except ScheduleError as error:
        raise refuse(str(error)) from None
    own_name = name if schedules.in_file(name) else chosen.name
    named = schedules.base.options(type(chosen))
    return ScheduleChoice(own_name, {name: getattr(chosen, f.name) for name, f in named.items() if f.init})


def relative_to(directory: Path, value: Any) -> Any:
    """A raw ``schedule`` section with its paths, which are relative to ``directory``, made relative to where we are.

    Paths are a name of the form ``file.py:schedule`` and the options that a schedule marks as paths.
    """
    from pipesim import schedules

    if isinstance(value, str):
        return str(directory / value) if schedules.in_file(value) else value
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        return value
    moved = {**value, "name": relative_to(directory, value["name"])}
    with contextlib.suppress(Exception):  # whatever is wrong with the schedule is reported when it is checked
        for key, f in schedules.base.options(schedules.get(moved["name"])).items():
            if f.metadata.get("path") and isinstance(moved.get(key), str):
                moved[key] = str(directory / moved[key])
    return moved


def _name_faults(name: Any, where: tuple[str, ...]) -> list[Fault]:
    from pipesim import schedules

    names, others = schedules.names(), schedules.registry.aliases()
    known = isinstance(name, str) and (name in names or name in others or schedules.in_file(name))
    if not known:
        near = nearest(str(name), [*names, *others])
        return [Fault(where, "unknown schedule", name, listed(names), near)]
    try:
        _load(name)
    except ScheduleError as error:
        return [Fault(where, str(error), name)]
    return []


def _option_faults(given: Mapping[str, Any], options: Mapping[str, Option]) -> list[Fault]:
    faults = [
        Fault((option.name,), "is missing", None, option.allowed)
        for option in options.values()
        if option.required and option.name not in given
    ]
    for key, value in given.items():
        if key not in options:
            faults.append(unknown_key(key, value, options))
        elif not options[key].accepts(value):
            near = nearest(str(value), map(str, options[key].choices))
            faults.append(Fault((key,), "not a value of this option", value, options[key].allowed, near))
    return faults


Schedule = Annotated[
    ScheduleChoice,
    PlainValidator(read_schedule),
    WithJsonSchema({"type": ["string", "object"], "description": "a schedule's name, or {name, options}"}),
]
