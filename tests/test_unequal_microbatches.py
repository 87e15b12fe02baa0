"""Micro-batches of unequal cost: through both engines, memory, metrics and studies, from either form of config."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipesim
from pipesim import api
from pipesim.engine import compiled, event
from pipesim.errors import ConfigError
from pipesim.lowering.bind import bind, traffic
from pipesim.study.replay import pipeline_only
from pipesim.study.sensitivity import sensitivities
from pipesim.study.structure import Structure

SCHEDULES = [
    "gpipe", "1f1b", "interleaved-1f1b", "breadth-first", "chimera", "bitpipe", "gems", "hanayo", "zb-h1", "zb-h2",
    "zb-auto", "zb-v", "v-half", "interleaved-zb", "gis", "pipe-offload", "dualpipe", "dualpipe-v", "pipedream",
    "layerpipe2", "helix",
]  # fmt: skip


def abstract(schedule="1f1b", scales=None, p2p="overlapped", network="ideal", **costs):
    given = {"forward": 1, "input_grad": 2, "weight_grad": 1.5, "p2p": 0.25, **costs}
    return {
        "pipeline": {"ranks": 4, "microbatches": 8},
        "costs": given if scales is None else {**given, "microbatch_scale": scales},
        "schedule": schedule,
        "simulation": {"p2p": p2p, "network": network},
    }


scales = st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]), min_size=8, max_size=8)


def without_config(result):
    return {key: value for key, value in result.metrics.items() if key != "config"}


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(SCHEDULES), scales, st.sampled_from(["overlapped", "blocking"]))
def test_work_is_conserved_and_both_engines_agree(schedule, scale, p2p):
    """Busy time is the sum over micro-batches, to the picosecond; all other numbers are the engines' in common."""
    runs = [api.simulate(abstract(schedule, scale, p2p), engine=engine) for engine in ("event", "compiled")]
    assert without_config(runs[0]) == without_config(runs[1])
    assert runs[0].raw.end.tolist() == runs[1].raw.end.tolist()
    busy = sum(rank["busy_s"] for rank in runs[0].metrics["ranks"])
    assert busy == pytest.approx(4 * 4.5 * sum(scale), rel=1e-12)  # a sum of floats in seconds


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("network", ["ideal", "fifo", "fair"])
def test_equal_scales_change_nothing(schedule, network):
    """The result of a list of ones is that of no list, number for number."""
    plain, ones = (api.simulate(abstract(schedule, each, network=network)) for each in (None, [1] * 8))
    assert without_config(plain) == without_config(ones)


def test_equal_micro_batches_can_change_places():
    """Only which micro-batch has which cost matters: a list and its permutation of equal entries are one."""
    first = api.simulate(abstract(scales=[2, 1, 1, 3, 1, 1, 1, 1])).metrics
    assert api.simulate(abstract(scales=[2.0, 1.0, 1.0, 3.0, 1.0, 1.0, 1.0, 1.0])).metrics == first
    assert api.simulate(abstract(scales=[1, 1, 2, 3, 1, 1, 1, 1])).metrics["step_time_s"] != first["step_time_s"]


def test_one_rank_holds_and_runs_each_micro_batch_as_large_as_it_is():
    """Drawn by hand: GPipe on one rank, activations of 1, 3 and 2 until their backwards end."""
    result = api.simulate({
        "pipeline": {"ranks": 1, "microbatches": 3},
        "costs": {"forward": 1, "input_grad": 1, "weight_grad": 0, "microbatch_scale": [1, 3, 2]},
        "schedule": "gpipe",
    })  # fmt: skip
    frame = result.timeline
    ops = frame[["kind", "microbatch", "start_s", "end_s"]].values.tolist()
    assert ops == [
        ["F", 0, 0, 1], ["F", 1, 1, 4], ["F", 2, 4, 6], ["B", 0, 6, 7], ["B", 1, 7, 10], ["B", 2, 10, 12],
    ]  # fmt: skip
    held = result.memory[result.memory["category"] == "activations"]
    assert held[["time_s", "bytes"]].values.tolist() == [[0, 1], [1, 4], [4, 6], [6, 6], [7, 5], [10, 2], [12, 0]]


def test_copies_to_the_host_take_as_long_as_their_micro_batch_is_large():
    """A round trip of half a second for one whole share: an eighth of it each way for one of two chunks."""
    schedule = {"name": "pipe-offload"}
    result = api.simulate(abstract(schedule, [1, 2, 3, 1, 2, 3, 1, 2], offload=0.5))
    copies = result.timeline[result.timeline["kind"].isin(["OFFLOAD", "RELOAD"])]
    assert len(copies)
    lengths = (copies["end_s"] - copies["start_s"]).to_numpy()
    sizes = np.array([1, 2, 3, 1, 2, 3, 1, 2])[copies["microbatch"]]
    assert lengths == pytest.approx(sizes / 8, abs=1e-9)
    assert result.metrics["offload"]["copied_bytes"] == pytest.approx(sizes[copies["kind"] == "OFFLOAD"].sum() / 2 / 4)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(["1f1b", "zb-h1", "interleaved-1f1b", "chimera", "dualpipe"]), scales, scales)
def test_one_structure_takes_the_costs_of_any_micro_batches(schedule, first, second):
    """Rebinding gives what a new graph gives, from unequal to unequal and to equal micro-batches."""
    plans = [api.plan(abstract(schedule, each)) for each in (first, second, [1] * 8)]
    structure = Structure(plans[0].program(), plans[0].costs, plans[0].lowering(plans[0].program()))
    for plan in plans:
        fresh = event.run(bind(structure.graph, plan.costs))
        assert structure.run(plan.costs).end.tolist() == fresh.end.tolist()


def test_a_structure_refuses_costs_of_other_micro_batches():
    plan = api.plan(abstract(scales=[1, 2] * 4))
    other = {**abstract(scales=[1, 2] * 6), "pipeline": {"ranks": 4, "microbatches": 12}}
    structure = Structure(plan.program(), plan.costs)
    with pytest.raises(ValueError, match="those of 12 micro-batches; the structure has 8"):
        structure.run(api.plan(other).costs)


def test_unequal_micro_batches_are_not_extrapolated():
    """They do not repeat; a note says so."""
    section = abstract(scales=[1, 2] * 4)
    section["simulation"]["extrapolate"] = True
    assert "micro-batches are not all alike" in api.simulate(section).metrics["warnings"][0]


def test_what_a_faster_part_brings_is_simulated_for_every_micro_batch():
    """A tenth less of everything is a tenth less of the step, with first order and simulation in agreement."""
    result = api.simulate(abstract("gpipe", [1, 2, 1, 1, 3, 1, 1, 1], p2p="overlapped"), engine="compiled")
    rows = {row.what: row for row in sensitivities(result)}
    shares = [rows[what].gain_s for what in ("forward", "backward", "transfers between ranks")]
    assert sum(shares) == pytest.approx(0.1 * result.metrics["step_time_s"], rel=1e-9)


def test_what_is_replayed_has_each_micro_batch_as_long_as_it_is():
    """Forward times of stage 1 on the replay's side, before scaling."""
    plan = api.plan(abstract(scales=[1, 2] * 4))
    costs = pipeline_only(plan.costs)
    stages, microbatches = np.ones(8, np.int64), np.arange(8)
    assert costs.at(lambda each: each.times.forward, stages, microbatches).tolist() == [1, 2] * 4


def cluster(schedule="1f1b", lengths=None, batch=8, **training):
    section = {"micro_batch": 1, "global_batch": batch, **training}
    return {
        "model": "llama-3-8b",
        "cluster": {"gpu": "h100-sxm-80gb", "nodes": 1},
        "parallelism": {"pipeline": 4, "tensor": 2},
        "schedule": schedule,
        "training": section if lengths is None else {**section, "sequence_lengths": lengths},
    }


@pytest.mark.parametrize("schedule", ["1f1b", "zb-v", "zb-auto", "chimera", "helix"])
@pytest.mark.parametrize("options", [{}, {"recompute": "full"}])
def test_the_model_s_own_length_everywhere_changes_nothing(schedule, options):
    plain, same = (api.simulate(cluster(schedule, each, **options)) for each in (None, [8192] * 8))
    assert without_config(plain) == without_config(same)


@pytest.mark.parametrize("schedule", ["1f1b", "zb-v", "chimera", "dualpipe-v"])
@pytest.mark.parametrize("network", ["ideal", "fifo", "fair"])
def test_ops_messages_and_activations_are_those_of_each_length(schedule, network):
    """Each micro-batch has the durations and the lags that it has in a step of its own length alone."""
    lengths = [2048, 8192, 2048, 4096] * 2
    plans = {length: api.plan(cluster(schedule, [length] * 8)) for length in set(lengths)}
    mixed = api.plan(cluster(schedule, lengths))
    graph, alone = mixed.graph(), {length: plan.graph() for length, plan in plans.items()}
    message = graph.dep_message >= 0
    for m, length in enumerate(lengths):
        own = (graph.microbatch == m) & (graph.kind < 9)
        assert graph.duration[own].tolist() == alone[length].duration[own].tolist()
        edges = np.flatnonzero(message & (graph.microbatch[graph.dep_node] == m))
        assert graph.dep_lag[edges].tolist() == alone[length].dep_lag[edges].tolist()
        ports = [traffic(g, p.costs).dep_occupied for g, p in ((graph, mixed), (alone[length], plans[length]))]
        assert ports[0][edges].tolist() == ports[1][edges].tolist()
    if network == "ideal":
        assert compiled.run(graph).end.tolist() == event.run(graph).end.tolist()
    else:
        section = cluster(schedule, lengths)
        section["simulation"] = {"network": network}
        assert api.simulate(section).metrics["step_time_s"] >= api.simulate_plan(mixed).metrics["step_time_s"] * 0.999


def test_tokens_and_flops_are_the_true_ones():
    """Half of the sequences 2048 tokens long: tokens add up, model FLOPs are those of both halves."""
    mixed = api.plan(cluster(lengths=[2048, 8192] * 4)).work
    short, long = (api.plan(cluster(lengths=[length] * 8)).work for length in (2048, 8192))
    assert (mixed.tokens, mixed.samples) == (4 * (2048 + 8192), 8)
    assert mixed.model_flops == (short.model_flops + long.model_flops) / 2
    result = api.simulate(cluster(lengths=[2048, 8192] * 4)).metrics
    assert result["throughput"]["tokens_per_s"] == mixed.tokens / result["step_time_s"]


def test_attention_is_quadratic_and_activations_are_linear():
    """Eight times the tokens: more than eight times the forward and its FLOPs, exactly eight times the activations."""
    plans = [api.plan(cluster(lengths=[length] * 8)) for length in (8192, 65536)]
    short, long = api.plan(cluster(lengths=[8192, 65536] * 4)).costs.variants.costs
    assert (long.times.forward > 8 * short.times.forward).all()
    assert plans[1].work.model_flops > 8 * plans[0].work.model_flops
    assert long.sizes.activations.tolist() == (8 * short.sizes.activations).tolist()
    assert long.sizes.message.tolist() == (8 * short.sizes.message).tolist()


def test_memory_peaks_with_the_long_micro_batches_in_flight():
    """Long ones all at once need what long ones alone do; two of rank 0's four in flight take half of that."""
    peak = {}
    for name, lengths in {
        "long": [8192] * 8, "short": [2048] * 8, "both": [8192, 8192, 8192, 8192, 2048, 2048, 2048, 2048],
        "mixed": [8192, 2048] * 4,
    }.items():  # fmt: skip
        peak[name] = api.simulate(cluster(lengths=lengths)).metrics["ranks"][0]["memory"]["activations_bytes"]
    assert peak["both"] == peak["long"] == 4 * peak["short"]
    assert peak["mixed"] == pytest.approx((peak["long"] + peak["short"]) / 2, rel=1e-12)


def test_measured_costs_are_scaled(tmp_path):
    """A profile of one length, and by how much each micro-batch takes longer."""
    path = tmp_path / "stages.csv"
    path.write_text("stage,forward_ms,backward_ms\n" + "".join(f"{stage},1,2\n" for stage in range(4)))
    section = cluster()
    section["costs"] = {"profile": str(path), "microbatch_scale": [1, 3] * 4}
    busy = [rank["busy_s"] for rank in api.simulate(section).metrics["ranks"]]
    assert busy == pytest.approx([16 * 3e-3] * 4, rel=1e-9)


BAD = [
    (abstract(scales=[1] * 7), "costs.microbatch_scale", "7", "8 entries, one per micro-batch"),
    (abstract(scales=[1] * 7 + [0]), "costs.microbatch_scale[7]", "0", "more than 0.0"),
    (abstract(scales=[1] * 7 + [-1]), "costs.microbatch_scale[7]", "-1", "more than 0.0"),
    (abstract(scales=3), "costs.microbatch_scale", "3", "a list"),
    (cluster(lengths=[8192] * 9), "training.sequence_lengths", "9", "8 entries, one per micro-batch"),
    (cluster(lengths=[8192] * 7 + [0]), "training.sequence_lengths[7]", "0", "at least 1"),
    (cluster(lengths=[8192] * 7 + [-8]), "training.sequence_lengths[7]", "-8", "at least 1"),
    (cluster(lengths=[8192] * 7 + [99]), "training.sequence_lengths", "99", "multiples of 2"),
    (
        {**cluster(lengths=[1024] * 7 + [4096]), "model": "gpt3-175b"},
        "training.sequence_lengths", "4096", "at most 2048 tokens",
    ),
    ({**cluster(lengths=[8192] * 8), "costs": {"profile": __file__}}, "training.sequence_lengths", "8192", "nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("section", "path", "found", "allowed"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_lists_that_do_not_fit_are_refused(section, path, found, allowed):
    with pytest.raises(ConfigError) as error:
        pipesim.load(section)
    assert [(p.path, p.found, p.allowed) for p in error.value.problems] == [(path, found, allowed)]
