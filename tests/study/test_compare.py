"""One config or several, with their own schedules or with others, side by side."""

from __future__ import annotations

from typing import Any

import pytest

import pipesim
from pipesim.errors import PipesimError

CONFIG: dict[str, Any] = {
    "pipeline": {"ranks": 4, "microbatches": 8},
    "costs": {"forward": 1, "input_grad": 1, "weight_grad": 1},
    "schedule": "1f1b",
}


def test_one_config_needs_no_list() -> None:
    """A mapping, a loaded config and a list of one say the same."""
    frames = [pipesim.compare(one, ["gpipe", "1f1b"]).frame for one in (CONFIG, pipesim.load(CONFIG), [CONFIG])]
    assert frames[0].equals(frames[1])
    assert frames[0].equals(frames[2])
    assert frames[0]["step_time_s"].tolist() == [33.0, 33.0]


def test_rows_are_named_as_the_schedules_were_asked_for() -> None:
    """An alias keeps its name, although the config calls its schedule something else."""
    frame = pipesim.compare(CONFIG, ["zb-1p", "zb-2p"]).frame
    assert frame.index.tolist() == ["zb-1p", "zb-2p"]
    assert frame["schedule"].tolist() == ["zb-auto", "zb-auto"]


def test_schedules_may_have_options_and_labels() -> None:
    """(P - 1) / (V M + P - 1) with V = 2 and 4."""
    loops = {f"{v} chunks": {"name": "interleaved-1f1b", "chunks": v} for v in (2, 4)}
    frame = pipesim.compare(CONFIG, loops).frame
    assert frame.index.tolist() == ["2 chunks", "4 chunks"]
    assert frame["bubble_fraction"].tolist() == [pytest.approx(3 / 19), pytest.approx(3 / 35)]


def test_schedules_with_options_are_named_by_them() -> None:
    """And stand for themselves: nothing is taken over from the config's own schedule."""
    base = {**CONFIG, "schedule": {"name": "interleaved-1f1b", "chunks": 4}}
    comparison = pipesim.compare(base, [{"name": "breadth-first", "backward_order": "descending"}, "breadth-first"])
    assert comparison.frame.index.tolist() == ["breadth-first (backward_order descending)", "breadth-first"]
    chunks = [result.metrics["config"]["schedule"]["chunks"] for result in comparison.results]
    assert chunks == [2, 4]


def test_plain_numbers_are_not_compared_with_seconds() -> None:
    """Neither in a table nor in a figure; the message says which config is which, and nothing is simulated."""
    real = {
        "model": "gpt2-1.3b",
        "cluster": {"gpu": "a100-sxm-40gb", "gpus_per_node": 4, "nodes": 1},
        "parallelism": {"pipeline": 4},
        "schedule": "1f1b",
        "training": {"micro_batch": 1, "global_batch": 8},
    }
    calls: list[tuple[int, int]] = []
    with pytest.raises(
        PipesimError, match=r"^config 2 has costs in plain numbers.* and config 1 has seconds and bytes"
    ):
        pipesim.compare([real, CONFIG, real], progress=lambda *call: calls.append(call))
    assert calls == []
    with pytest.raises(PipesimError, match="they have no unit in common"):
        pipesim.compare([pipesim.load(CONFIG), pipesim.load(real)], ["gpipe", "1f1b"])


def test_overrides_hold_for_loaded_configs() -> None:
    """With and without other schedules: 3 (M + P - 1)."""
    loaded, four = pipesim.load(CONFIG), ["pipeline.microbatches=4"]
    for schedules in (None, ["gpipe"]):
        assert pipesim.compare(loaded, schedules, four).frame["step_time_s"].tolist() == [21.0]


def test_a_comparison_is_shown_as_a_table() -> None:
    """As text and as HTML, plans that cannot run included."""
    comparison = pipesim.compare({**CONFIG, "pipeline": {"ranks": 3, "microbatches": 8}}, ["1f1b", "chimera"])
    lines = repr(comparison).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["1f1b", "chimera"]
    assert lines[3].split()[1:7] == ["-"] * 6
    assert "the number of ranks must be even" in lines[3]
    assert "<th>chimera</th>" in comparison._repr_html_()


def test_engines_may_be_chosen() -> None:
    """Both give the same integers."""
    frames = [pipesim.compare(CONFIG, ["gpipe"], engine=engine).frame for engine in ("event", "compiled")]
    assert frames[0].equals(frames[1])


def test_speed_beside_plans_without_a_flush_is_the_steady_rate() -> None:
    """1F1B's step over its micro-batches beside PipeDream's period: F + I + W, whatever filling and draining take."""
    config = {**CONFIG, "pipeline": {"ranks": 4, "microbatches": 64}}
    frame = pipesim.compare(config, ["1f1b", "pipedream"]).frame
    assert frame["microbatch_s"].tolist() == [201 / 64, 3.0]
    assert frame["speedup"].tolist() == [1.0, 201 / 64 / 3.0]
    assert "microbatch_s" not in pipesim.compare(config, ["1f1b", "gpipe"]).frame


def test_too_few_microbatches_for_a_steady_state_have_no_speed() -> None:
    """LayerPipe2 sends seven ahead on four ranks: of eight, none is between filling and draining."""
    comparison = pipesim.compare(CONFIG, ["1f1b", "layerpipe2"])
    assert comparison.rows[1]["microbatch_s"] is comparison.rows[1]["speedup"] is None
    assert repr(comparison).splitlines()[-1].split()[3:5] == ["-", "-"]
