"""Options of a schedule are read off its dataclass and checked like everything else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest

from pipesim.config import load_config, load_with_schedule, schedule_options
from pipesim.errors import ConfigError, ScheduleError
from pipesim.schedules import Schedule, register, registry


@dataclass(frozen=True)
class Everything(Schedule):
    """An option of every kind."""

    name: ClassVar[str] = "everything"

    count: int = 2
    zero_allowed: int = field(default=0, metadata={"minimum": 0})
    maybe: int | None = None
    factor: float = 1.0
    flag: bool = False
    word: str = "x"
    choice: Literal["direct", "doubling", "halving"] = "direct"
    level: Literal[1, 2] = 1
    mixed: Literal["auto"] | float = "auto"
    needed: int = field(kw_only=True)


@pytest.fixture
def everything() -> None:
    register(Everything)


def with_option(abstract: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {**abstract, "schedule": {"name": "everything", "needed": 1, **options}}


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("count", 1),
        ("zero_allowed", 0),
        ("maybe", None),
        ("maybe", 3),
        ("factor", 0),
        ("factor", 2.5),
        ("flag", True),
        ("word", "anything"),
        ("choice", "halving"),
        ("level", 2),
        ("mixed", "auto"),
        ("mixed", 0.5),
    ],
)
def test_right_values_are_taken_as_they_are(abstract: Any, option: str, value: Any) -> None:
    config = load_config(with_option(abstract, **{option: value}))
    assert config.schedule.options[option] == value
    assert config.build_schedule() == Everything(**{"needed": 1, option: value})


WHOLE = "a whole number of at least 1"


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize(
    ("option", "value", "found", "allowed", "nearest"),
    [
        ("count", 0, "0", WHOLE, None),
        ("count", "2", "'2'", WHOLE, None),
        ("count", 2.0, "2.0", WHOLE, None),
        ("count", True, "true", WHOLE, None),
        ("count", None, "nothing", WHOLE, None),
        ("count", 10**12, "1000000000000", WHOLE, None),
        ("count", [1], "a list of 1", WHOLE, None),
        ("zero_allowed", -1, "-1", "a whole number of at least 0", None),
        ("maybe", "x", "'x'", f"{WHOLE}, or nothing", None),
        ("factor", float("nan"), ".nan", "a number of at least 0", None),
        ("factor", float("inf"), ".inf", "a number of at least 0", None),
        ("factor", -1, "-1", "a number of at least 0", None),
        ("factor", False, "false", "a number of at least 0", None),
        ("flag", 1, "1", "true, false", None),
        ("flag", "yes", "'yes'", "true, false", None),
        ("word", 3, "3", "text", None),
        ("choice", "doubl", "'doubl'", "direct, doubling, halving", "doubling"),
        ("choice", 1, "1", "direct, doubling, halving", None),
        ("level", True, "true", "1, 2", None),
        ("level", 3, "3", "1, 2", None),
        ("mixed", "aut", "'aut'", "auto, or a number of at least 0", "auto"),
    ],
)
def test_wrong_values_say_what_is_allowed(
    abstract: Any, problems: Any, option: str, value: Any, found: str, allowed: str, nearest: str | None
) -> None:
    (problem,) = problems(with_option(abstract, **{option: value}))
    assert (problem.path, problem.message) == (f"schedule.{option}", "not a value of this option")
    assert (problem.found, problem.allowed, problem.nearest) == (found, allowed, nearest)


@pytest.mark.usefixtures("everything")
def test_a_needed_option_is_missed(abstract: Any, problems: Any) -> None:
    (problem,) = problems({**abstract, "schedule": "everything"})
    assert (problem.path, problem.message, problem.allowed) == ("schedule.needed", "is missing", WHOLE)


@pytest.mark.parametrize(
    ("schedule", "path", "message", "nearest"),
    [
        ("interleved-1f1b", "schedule", "unknown schedule", "interleaved-1f1b"),
        ("looped-bf", "schedule", "unknown schedule", "looped-bfs"),
        ({"name": "1F1b"}, "schedule.name", "unknown schedule", "1f1b"),
        ({"name": 3}, "schedule.name", "unknown schedule", None),
        ({"name": ["1f1b"]}, "schedule.name", "unknown schedule", "1f1b"),
        ({"chunks": 2}, "schedule.name", "is missing", None),
        (["1f1b"], "schedule", "neither a name nor a mapping", None),
        (None, "schedule", "neither a name nor a mapping", None),
        ({"name": "1f1b", "chunks": 2}, "schedule.chunks", "unknown key", None),
        ({"name": "interleaved-1f1b", "group": 4}, "schedule.group", "unknown key", "group_size"),
    ],
)
def test_wrong_schedules(
    abstract: Any, problems: Any, schedule: Any, path: str, message: str, nearest: str | None
) -> None:
    (problem,) = problems({**abstract, "schedule": schedule})
    assert (problem.path, problem.message, problem.nearest) == (path, message, nearest)


def test_unknown_schedules_come_with_the_known_ones(abstract: Any, problems: Any) -> None:
    (problem,) = problems({**abstract, "schedule": "fastest"})
    assert problem.allowed == ", ".join(registry.names())


def test_a_missing_schedule_is_a_problem(abstract: Any, problems: Any) -> None:
    del abstract["schedule"]
    (problem,) = problems(abstract)
    assert (problem.path, problem.message) == ("schedule", "is missing")


def test_an_alias_resolves_to_the_schedules_own_name(abstract: Any) -> None:
    config = load_config({**abstract, "schedule": "depth-first"})
    assert config.resolved()["schedule"] == {"name": "interleaved-1f1b", "chunks": 2, "group_size": None}


def test_a_schedule_whose_module_fails_is_reported(abstract: Any, problems: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(registry._FAMILIES, "broken", "no_such_module")
    (problem,) = problems({**abstract, "schedule": "broken"})
    assert problem.path == "schedule"
    assert "cannot be loaded: No module named" in problem.message


def test_options_are_described_for_people() -> None:
    option = schedule_options("breadth-first")["backward_order"]
    assert (option.allowed, option.default) == ("ascending, descending", "ascending")
    with pytest.raises(ScheduleError, match="did you mean 'gpipe'"):
        schedule_options("gpip")


def test_another_schedule_keeps_the_options_it_shares(abstract: Any) -> None:
    abstract["schedule"] |= {"chunks": 3, "group_size": 4}
    changed = load_with_schedule(abstract, "breadth-first")
    assert changed.schedule.resolved() == {"name": "breadth-first", "chunks": 3, "backward_order": "ascending"}
    assert load_with_schedule(abstract, "gpipe").schedule.resolved() == {"name": "gpipe"}


def test_another_schedule_is_checked_like_any(abstract: Any) -> None:
    with pytest.raises(ConfigError, match="a last group of 1"):
        load_with_schedule(abstract, "interleaved-1f1b", ["pipeline.microbatches=5"])
