"""``--set path=value``."""

from __future__ import annotations

from typing import Any

import pytest

from pipesim.config import load_config
from pipesim.config.overrides import apply
from pipesim.errors import Problem


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("a.b=2", ("a", "b"), 2),
        ("a.c.d=x", ("a", "c", "d"), "x"),
        ("a.b=[1, 2]", ("a", "b"), [1, 2]),
        ("a.b={c: 1e3}", ("a", "b"), {"c": 1000.0}),
        ("a.b=", ("a", "b"), None),
        (" a.b =x=y", ("a", "b"), "x=y"),
    ],
)
def test_a_value_is_yaml_and_its_path_is_made(override: str, path: tuple[str, ...], value: object) -> None:
    changed, problems = apply({"a": {"b": 1}}, [override])
    assert problems == []
    for key in path[:-1]:
        changed = changed[key]
    assert changed.get(path[-1]) == value


def test_the_original_is_not_changed() -> None:
    original = {"a": {"b": [1, 2]}}
    changed, _ = apply(original, ["a.b.0=5"])
    assert (original, changed) == ({"a": {"b": [1, 2]}}, {"a": {"b": [5, 2]}})


def test_null_takes_a_key_out() -> None:
    assert apply({"a": {"b": 1, "c": 2}}, ["a.b=null"])[0] == {"a": {"c": 2}}


@pytest.mark.parametrize(
    ("key", "path", "value"),
    [
        ("schedule", "schedule.chunks=2", {"name": "x", "chunks": 2}),
        ("gpu", "gpu.memory=5", {"base": "x", "memory": 5}),
    ],
)
def test_a_bare_name_opens_up(key: str, path: str, value: object) -> None:
    assert apply({key: "x"}, [path])[0] == {key: value}


def test_later_overrides_see_earlier_ones() -> None:
    assert apply({}, ["schedule=x", "schedule.chunks=2"])[0] == {"schedule": {"name": "x", "chunks": 2}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("foo", "not an assignment"),
        ("=3", "not an assignment"),
        ("a..b=3", "not an assignment"),
        ("a.b.c=3", "'b' is a single value and has no 'c'"),
        ("list.7=3", "no such item of the list"),
        ("list.x=3", "no such item of the list"),
        ("a.b=[1", "while parsing a flow sequence, expected ',' or ']', but got '<stream end>' (line 1, column 3)"),
    ],
)
def test_an_override_that_makes_no_sense_is_named(override: str, message: str) -> None:
    _, (problem,) = apply({"a": {"b": 1}, "list": [1]}, [override])
    assert (problem.path, problem.message) == (f"--set {override}", message)


@pytest.mark.parametrize(
    ("override", "path", "nearest"),
    [
        ("clutser.gpu=h100-sxm-80gb", "clutser", "cluster"),
        ("cluster.gqu=h100-sxm-80gb", "cluster.gqu", "gpu"),
        ("training.globalbatch=8", "training.globalbatch", "global_batch"),
        ("schedule.chunk=4", "schedule.chunk", "chunks"),
        ("simulation.netwrok=fifo", "simulation.netwrok", "network"),
    ],
)
def test_an_unknown_path_names_the_nearest(cluster: Any, problems: Any, override: str, path: str, nearest: str) -> None:
    (problem,) = problems(cluster, override)
    assert (problem.path, problem.nearest) == (path, nearest)
    assert problem.message == "unknown key (set on the command line)"


def test_all_bad_overrides_are_reported_with_the_errors_of_the_config(cluster: Any, problems: Any) -> None:
    cluster["cluster"]["nodes"] = 0
    found = problems(cluster, "foo", "training.zero=7")
    assert [problem.path for problem in found] == ["--set foo", "cluster.nodes", "training.zero"]


def test_only_problems_from_the_command_line_say_so(cluster: Any, problems: Any) -> None:
    cluster["cluster"]["nodes"] = 0
    found: list[Problem] = problems(cluster, "training.zero=7")
    assert [problem.message.endswith("(set on the command line)") for problem in found] == [False, True]


def test_overrides_reach_the_config(cluster: Any) -> None:
    config = load_config(cluster, ["schedule=1f1b", "training.global_batch=48"])
    assert (config.schedule.name, config.microbatches) == ("1f1b", 48)
