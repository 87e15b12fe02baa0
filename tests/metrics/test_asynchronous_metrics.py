"""Runs without a flush report a steady rate, and bubbles are null with the reason, in every way out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import pipesim
from pipesim.lowering.memory import activation_effects
from pipesim.metrics.asynchronous import BUBBLES
from pipesim.metrics.memory import curve

CONFIG = Path(__file__).parents[2] / "configs" / "pipedream_abstract.yaml"
CLUSTER = {
    "model": "gpt2-1.3b",
    "cluster": {"gpu": "a100-sxm-80gb", "gpus_per_node": 8, "nodes": 1},
    "parallelism": {"pipeline": 4},
    "schedule": "pipedream",
    "training": {"micro_batch": 2, "global_batch": 128},
}


def simulate(*overrides, **changes):
    return pipesim.simulate(pipesim.load({**CLUSTER, **changes}, list(overrides)), engine="compiled")


def abstract(name, microbatches=64, ranks=4, costs=None, **options):
    return pipesim.simulate(
        {
            "pipeline": {"ranks": ranks, "microbatches": microbatches},
            "costs": costs or {},
            "schedule": {"name": name, **options},
        }
    )


def test_bubbles_are_null_and_say_why():
    """Of the run and of its ranks; JSON, repr and summary live with it."""
    result = pipesim.simulate(CONFIG)
    metrics = result.metrics
    assert [metrics[name] for name in BUBBLES] == [None] * 3
    assert {rank["bubble_fraction"] for rank in metrics["ranks"]} == {None}
    assert "not flushed" in metrics["asynchronous"]["reason"]
    assert metrics["asynchronous"]["reason"] in " ".join(metrics["warnings"])
    assert json.loads(result.to_json()) == metrics
    assert "no flush" in repr(result)
    assert "Steady time per micro-batch           3" in result.summary()


def test_schedules_with_a_flush_have_no_such_section():
    """Null, not absent."""
    assert abstract("1f1b").metrics["asynchronous"] is None


def test_fill_window_and_drain_of_pipedream():
    """P = 4, F = 1, B = 2: rank 0 has its first backward at 12; its last forward ends at 190 of 201.

    Backwards of stage 0 end every 3 from 12 on. The last inside is at 189, and 14 rounds of 4 fit before it.
    """
    section = pipesim.simulate(CONFIG).metrics["asynchronous"]
    steady = section["steady"]
    assert (section["fill_s"], section["drain_s"]) == (12.0, 11.0)
    assert (steady["begin_s"], steady["end_s"], steady["microbatches"]) == (21.0, 189.0, 56)
    assert steady["period_s"] == 3.0
    assert steady["utilisation"] == [1.0] * 4
    assert steady["update_utilisation"] is None


def test_utilisation_is_work_over_period():
    """With hops of one, PipeDream's ranks work 3 of every 4.5; a second engine its W of every F + max(I, W)."""
    slow = abstract("pipedream", costs={"p2p": 1}).metrics["asynchronous"]["steady"]
    assert slow["utilisation"] == pytest.approx([3 / 4.5] * 4)  # one division of floats
    split = abstract("layerpipe2", engines=2, costs={"forward": 3}).metrics["asynchronous"]["steady"]
    assert split["update_utilisation"] == [1 / 4] * 4
    assert split["utilisation"] == [1.0] * 4


@pytest.mark.parametrize("name", ["pipedream", "pipedream-2bw", "layerpipe2"])
def test_a_short_run_has_no_steady_state(name):
    """With as many micro-batches as ranks the pipeline drains before it is full."""
    result = abstract(name, microbatches=4)
    assert result.metrics["asynchronous"]["steady"] is None
    assert "not reached" in result.summary()


def test_one_rank_and_one_micro_batch():
    """The smallest run: nothing stale, one version."""
    section = abstract("pipedream", 1, 1).metrics["asynchronous"]
    assert section["stages"] == [
        {
            "stage": 0,
            "rank": 0,
            "staleness": 0,
            "mean_staleness": 0.0,
            "versions": 1,
            "extra_weights_bytes": 0.0,
        }
    ]


def test_optimizer_and_reconstruction_lengthen_the_clock():
    """One update per micro-batch or per group; a reconstruction per backward where there is a delay."""
    costs = {"optimizer": 0.5, "reconstruct": 0.25}
    periods = {
        name: abstract(name, 96, costs=costs, **options).metrics["asynchronous"]["steady"]["period_s"]
        for name, options in (("pipedream", {}), ("pipedream-2bw", {"group": 8}), ("layerpipe2", {}))
    }
    # The update of a group of 8 delays one clock in eight.
    assert periods == {"pipedream": 3.5, "pipedream-2bw": 3.0625, "layerpipe2": 3.75}
    parts = abstract("layerpipe2", 96, costs=costs).metrics["ranks"]
    assert [rank["time_breakdown"]["optimizer"] for rank in parts] == [96 * 0.75] * 3 + [96 * 0.5]


def test_times_of_no_length_do_not_confuse_the_order():
    """Free backwards end with their update: staleness still follows from the order."""
    metrics = abstract("pipedream", costs={"input_grad": 0, "weight_grad": 0}).metrics
    assert [stage["staleness"] for stage in metrics["asynchronous"]["stages"]] == [3, 2, 1, 0]


@pytest.mark.parametrize("options", [{"engines": 1}, {"engines": 2}, {"engines": 2, "layers": 3}], ids=str)
def test_activation_memory_returns_to_its_base(options):
    """On one engine or two, the curve's maximum is the peak, 2A+1 micro-batches, and it ends at zero."""
    result = abstract("layerpipe2", costs={"weight_grad": 3, "p2p": 1}, **options)
    effects = activation_effects(result.raw.graph, result.costs.sizes)
    for rank, metrics in enumerate(result.metrics["ranks"]):
        _, level = curve(result.raw, effects, rank)
        assert level.max() == metrics["memory"]["activations_bytes"] == pytest.approx(7 - 2 * rank)  # sums of thirds
        assert level[-1] == pytest.approx(0.0, abs=1e-9)
        assert metrics["peak_in_flight"] == pytest.approx(7 - 2 * rank)


def test_the_makespan_ends_with_the_last_weight_gradient():
    """On two engines too: with W = 5 and an update of 1 it ends one before the run, 3 after the last I."""
    result = abstract("layerpipe2", 8, engines=2, costs={"input_grad": 2, "weight_grad": 5, "optimizer": 1})
    frame = result.timeline
    assert result.metrics["compute_makespan_s"] == result.metrics["step_time_s"] - 1
    assert frame.loc[frame["kind"] == "I", "end_s"].max() == result.metrics["compute_makespan_s"] - 3


def test_extra_weights_are_weights():
    """On a cluster: PipeDream holds 4, 3, 2, 1 copies of its bf16 weights; with the policy, nothing else changes but
    what of the buffers is a share of everything.
    """
    plain, stashed = simulate(schedule="1f1b").metrics, simulate().metrics
    for rank, (one, other) in enumerate(zip(plain["ranks"], stashed["ranks"], strict=True)):
        before, after = one["memory"], other["memory"]
        assert after["weights_bytes"] == (4 - rank) * before["weights_bytes"]
        same = ("gradients_bytes", "optimizer_bytes", "activations_bytes")
        assert [after[name] for name in same] == [before[name] for name in same]
        parts = sum(value for name, value in after.items() if name not in ("peak_bytes", "at_s", "at_op"))
        assert parts == pytest.approx(after["peak_bytes"], rel=1e-12)  # the same sum in another order


def test_steady_throughput_counts_all_replicas():
    """Samples per second are micro-batch times replicas over the period; the global batch only sets the length."""
    metrics = simulate("parallelism.data=2", "training.global_batch=256").metrics
    steady = metrics["asynchronous"]["steady"]
    rate = steady["throughput"]
    assert rate["samples_per_s"] == pytest.approx(2 * 2 / steady["period_s"], rel=1e-12)  # float division
    assert rate["mfu"] > metrics["throughput"]["mfu"]
    longer = simulate("parallelism.data=2", "training.global_batch=512").metrics["asynchronous"]["steady"]
    # Unequal stages: a different whole number of rounds moves the mean a little.
    assert longer["period_s"] == pytest.approx(steady["period_s"], rel=5e-3)


def test_both_engines_report_the_same():
    """To the last digit, on two engines with data parallelism."""
    schedule = {"name": "layerpipe2", "engines": 2}
    config = pipesim.load({**CLUSTER, "schedule": schedule}, ["parallelism.data=2"])
    results = [pipesim.simulate(config, engine=engine).to_json() for engine in ("event", "compiled")]
    assert results[0] == results[1]


def test_comparisons_take_null_bubbles(tmp_path):
    """A table, its JSON and the figure of schedules with and without a flush."""
    comparison = pipesim.compare([CONFIG], schedules=["1f1b", "pipedream", "layerpipe2"])
    assert comparison.frame["bubble_fraction"].isna().tolist() == [False, True, True]
    json.dumps(comparison.as_json(), allow_nan=False)
    assert len(comparison.plot().axes) >= 3


def test_the_second_engine_is_a_lane_of_its_own():
    """Weight gradients and updates are rows of the timeline under their own resource."""
    frame = abstract("layerpipe2", 8, engines=2).timeline
    kinds = frame.groupby("resource", observed=True)["kind"].unique()
    assert set(kinds["update"]) == {"W", "OPT"}
    assert set(kinds["compute"]) == {"F", "I"}
    assert np.isclose(frame.loc[frame["kind"] == "W", "end_s"] - frame.loc[frame["kind"] == "W", "start_s"], 1).all()


def test_memory_without_activations_is_an_empty_table():
    """Activations of no bytes, with weight gradients on a second engine."""
    config = {
        "pipeline": {"ranks": 2, "microbatches": 3},
        "memory": {"activation": 0},
        "schedule": {"name": "layerpipe2", "engines": 2},
    }
    memory = pipesim.simulate(config).memory
    assert (memory["bytes"] == 0).all()


def test_weight_gradients_of_recomputed_layers_never_leave_less_than_nothing():
    """W on its own engine may end before the I beside it; what both need is there from I's start."""
    schedule = {"name": "layerpipe2", "engines": 2}
    result = simulate("training.recompute=full", "training.global_batch=12", schedule=schedule)
    held = result.memory.query("category == 'activations'")["bytes"]
    assert held.min() == pytest.approx(0, abs=1)  # sums of floats, in bytes
    assert held.max() > 0
