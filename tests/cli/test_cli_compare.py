"""``pipesim compare``: every plan stays in the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def rows(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines()[1:]]


def test_schedules_side_by_side(run: Any, config: Path) -> None:
    code, out, err = run("compare", config, "--schedules", "gpipe,1f1b,interleaved-1f1b")
    assert (code, err) == (0, "")
    # 3 (M + P - 1) = 33; with two chunks 3 (M + (P - 1) / 2) = 28.5
    expected = [["gpipe", "33"], ["1f1b", "33"], ["interleaved-1f1b", "28.5"]]
    assert [row[:2] for row in rows(out)] == expected
    assert [row[2] for row in rows(out)] == ["1.000x", "1.000x", "1.158x"]


def test_configs_side_by_side_are_told_apart(run: Any, config: Path, simulated: list[Any]) -> None:
    other = config.with_name("other.yaml")
    other.write_text(config.read_text())
    _, out, _ = run("compare", config, other)
    assert [row[0] for row in rows(out)] == ["config.yaml", "other.yaml"]
    _, out, _ = run("compare", config, config)
    assert [row[:2] for row in rows(out)] == [["1", "config.yaml"], ["2", "config.yaml"]]


def test_a_schedule_that_cannot_run_is_marked_not_dropped(run: Any, config: Path) -> None:
    numbers = ["--set", "pipeline.microbatches=9"]
    code, out, err = run("compare", config, "--schedules", "gpipe,interleaved-1f1b", *numbers)
    assert (code, rows(out)[1][:2]) == (0, ["interleaved-1f1b", "-"])
    assert "interleaved-1f1b cannot run" in err
    assert "use 8 or 12 micro-batches" in err


def test_when_nothing_can_run_the_input_was_bad(run: Any, config: Path) -> None:
    code, _, err = run("compare", config, "--schedules", "interleaved-1f1b", "--set", "pipeline.microbatches=9")
    assert code == 2
    assert "cannot run" in err


def test_plans_that_do_not_fit_are_marked(run: Any, config: Path, does_not_fit: None) -> None:
    code, out, _ = run("compare", config, "--schedules", "gpipe,1f1b")
    assert code == 1
    assert [row.count("NO") for row in rows(out)] == [1, 1]


def test_json_is_alone_on_standard_output(run: Any, config: Path, simulated: list[Any]) -> None:
    _, out, _ = run("compare", config, "--schedules", "gpipe,1f1b", "--json", "-")
    assert [plan["label"] for plan in json.loads(out)["plans"]] == ["gpipe", "1f1b"]


def test_configs_with_and_without_a_cluster_are_bad_input(run: Any, config: Path, simulated: list[Any]) -> None:
    real = Path(__file__).parents[2] / "configs" / "gpt3_175b_a100.yaml"
    code, out, err = run("compare", config, real)
    assert (code, out, simulated) == (2, "", [])
    assert f"{config} has costs in plain numbers" in err
    assert f"{real} has seconds and bytes on a cluster" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--schedules", "gpip"], "did you mean 'gpipe'?"),
        (["--schedules", "gpipe", "--set", "pipeline.ranks=0"], "pipeline.ranks: out of range"),
        (["--json", "/nowhere/a.json"], "--json: there is no directory '/nowhere'"),
    ],
)
def test_bad_input_stops_before_simulating(
    run: Any, config: Path, simulated: list[Any], arguments: list[str], message: str
) -> None:
    code, out, err = run("compare", config, *arguments)
    assert (code, out, simulated) == (2, "", [])
    assert message in err
