"""Observed runs are measured like simulated ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pipesim
from pipesim.cli import main
from pipesim.costs.profile import read_profile
from pipesim.interop.observation import TraceError
from pipesim.study.trace import Trace, read_trace

DATA = Path(__file__).parents[1] / "data"
CLOCKS = json.loads((DATA / "kineto" / "clocks.json").read_text())
MEASURES = ("bubble_fraction", "bubble_overhead", "span_bubble_fraction")


def kineto(name: str) -> Trace:
    return read_trace(sorted((DATA / "kineto" / name).glob("*.gz")))


@pytest.mark.parametrize("name", CLOCKS)
def test_bubbles_of_a_pytorch_run_are_those_of_the_ops_own_clocks(name: str) -> None:
    metrics, clocks = kineto(name).metrics(), CLOCKS[name]
    assert metrics["compute_makespan_s"] == pytest.approx(clocks["compute_makespan_s"], rel=0.01)
    # the profiler and the runtime add under 0.7 ms of overhead to ops of 20 to 30 ms, which counts as busy
    assert [metrics[each] for each in MEASURES] == pytest.approx([clocks[each] for each in MEASURES], abs=0.03)


def test_bubbles_of_an_event_table_are_the_published_closed_form() -> None:
    """1F1B with exposed transfers: C = (M + P - 1)(F + B) + k (c_f + c_b), here with k = 5 exposed pairs of hops.

    Durations: ByteDance-Seed/StragglerAnalysis, trace ST, ideal values.
    """
    forward, backward, hop_forward, hop_backward = 0.085282063, 0.158410238, 0.000634015, 0.000591636
    makespan = 7 * (forward + backward) + 5 * (hop_forward + hop_backward)
    metrics = read_trace(DATA / "event_table" / "st_ideal.csv").metrics()
    assert metrics["compute_makespan_s"] == pytest.approx(makespan, abs=1e-6)  # the table has nanoseconds
    assert metrics["bubble_fraction"] == pytest.approx(1 - 4 * (forward + backward) / makespan, abs=1e-6)
    assert metrics["step_time_s"] == pytest.approx(1.843296, abs=1e-6)


def test_a_simulated_step_has_the_same_metrics_when_read_back(tmp_path: Path) -> None:
    """Also what each bubble waits for, as long as no transfer takes time: a trace does not show those."""
    result = pipesim.simulate({"pipeline": {"ranks": 4, "microbatches": 8}, "costs": {}, "schedule": "zb-h1"})
    result.write_trace(tmp_path / "trace.json")
    metrics = read_trace(tmp_path / "trace.json").metrics()
    for name in ("step_time_s", "compute_makespan_s", *MEASURES):
        assert metrics[name] == pytest.approx(result.metrics[name])
    assert metrics["time_breakdown"] == pytest.approx(result.metrics["time_breakdown"])
    own, simulated = metrics["ranks"], result.metrics["ranks"]
    assert [rank["peak_in_flight"] for rank in own] == [rank["peak_in_flight"] for rank in simulated]


def test_part_of_a_pipeline_still_has_bubbles() -> None:
    """Without all ranks, nobody knows what they wait for."""
    alone = read_trace(DATA / "kineto" / "interleaved-zb" / "rank2.json.gz")
    assert alone.result() is None
    metrics = alone.metrics()
    assert "time_breakdown" not in metrics
    assert 0.0 < metrics["bubble_fraction"] < 0.2


def test_the_profile_is_what_was_configured(tmp_path: Path) -> None:
    """30 ms per op, which the profiler and the runtime lengthen by up to 1.5 ms."""
    trace = kineto("interleaved-zb")
    file = tmp_path / "profile.csv"
    file.write_text(trace.profile_csv())
    profile = read_profile(file)
    assert profile.keys == tuple(map(str, range(8)))
    assert set(profile.columns) == {"forward", "input_grad", "weight_grad"}
    for column in profile.columns.values():
        assert column.tolist() == pytest.approx([0.03075] * 8, abs=0.00075)


def test_the_profile_of_whole_backwards_has_one_column_for_them() -> None:
    profile = read_trace(DATA / "event_table" / "st_ideal.csv").profile
    assert profile.columns.tolist() == ["stage", "forward_s", "backward_s"]
    assert profile["backward_s"].tolist() == pytest.approx([0.15841] * 4, abs=1e-5)


def test_the_median_step_is_shown_unless_another_is_asked_for(tmp_path: Path) -> None:
    rows = [f"{step},0,F,{step * 10},{length}" for step, length in enumerate([5, 1, 3])]
    (tmp_path / "events.csv").write_text("\n".join(["step,stage,kind,start,duration", *rows]))
    trace = read_trace(tmp_path / "events.csv")
    assert trace.step_times_s == {0: 5.0, 1: 1.0, 2: 3.0}
    assert trace.metrics()["step_time_s"] == 3.0
    assert trace.metrics(1)["step_time_s"] == 1.0
    with pytest.raises(TraceError, match="there is no step 7; the trace has steps 0, 1, 2"):
        trace.metrics(7)


def test_the_command_prints_draws_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(map(str, (DATA / "kineto" / "dualpipe-v").glob("*.gz")))
    gantt, profile = tmp_path / "gantt.png", tmp_path / "profile.csv"
    assert main(["trace", *files, "--gantt", str(gantt), "--profile", str(profile)]) == 0
    out = capsys.readouterr().out
    assert "bubble fraction: " in out
    assert "Profile, medians:" in out
    assert gantt.stat().st_size > 10_000
    assert read_profile(profile).keys == ("0", "1", "2", "3")


def test_json_on_standard_output_is_only_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", str(DATA / "event_table" / "st_ideal.csv"), "--json", "-"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["step"] == 3
    assert found["notes"][0] in err
    assert len(found["profile"]) == 4


def test_a_bad_trace_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "trace.json").write_text("[]")
    assert main(["trace", str(tmp_path / "trace.json")]) == 2
    assert "no pipeline in it" in capsys.readouterr().err
