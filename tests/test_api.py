"""A config in, a result out: the keys of the result JSON, determinism, the three config forms."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

import pipesim
from pipesim.errors import ConfigError, PipesimError

ROOT = Path(__file__).parents[1]
MAIN = ROOT / "configs" / "gpt3_175b_a100.yaml"
ABSTRACT = {
    "pipeline": {"ranks": 4, "microbatches": 8},
    "costs": {"forward": 1, "input_grad": 1, "weight_grad": 1},
    "schedule": "1f1b",
}
KEYS = [
    "schema_version",
    "config",
    "step_time_s",
    "compute_makespan_s",
    "bubble_fraction",
    "bubble_overhead",
    "span_bubble_fraction",
    "throughput",
    "memory",
    "time_breakdown",
    "ranks",
    "critical_path",
    "asynchronous",
    "offload",
    "links",
    "theory",
    "warnings",
]


def test_result_keys_are_the_contract():
    """Top-level keys, those of a rank, and of its memory."""
    metrics = pipesim.simulate(ABSTRACT).metrics
    assert list(metrics) == KEYS
    assert metrics["schema_version"] == 1
    rank = ["rank", "busy_s", "bubble_fraction", "span_s", "peak_in_flight", "time_breakdown", "memory"]
    assert list(metrics["ranks"][0]) == rank
    memory = ["weights", "gradients", "optimizer", "activations", "buffers"]
    assert list(metrics["ranks"][0]["memory"]) == [
        "peak_bytes",
        "at_s",
        *(f"{name}_bytes" for name in memory),
        "at_op",
    ]
    assert list(metrics["memory"]) == ["peak_bytes", "capacity_bytes", "fits"]


def test_the_abstract_form_knows_no_throughput():
    """What it cannot know is null, not absent."""
    metrics = pipesim.simulate(ABSTRACT).metrics
    assert set(metrics["throughput"].values()) == {None}
    assert (metrics["memory"]["capacity_bytes"], metrics["memory"]["fits"]) == (None, None)


def test_1f1b_in_the_abstract():
    """33 seconds, and theory agrees."""
    metrics = pipesim.simulate(ABSTRACT).metrics
    assert metrics["step_time_s"] == 33.0
    assert metrics["bubble_fraction"] == metrics["theory"]["bubble_fraction"] == pytest.approx(3 / 11)
    assert metrics["theory"]["peak_in_flight"] == [r["peak_in_flight"] for r in metrics["ranks"]] == [4, 3, 2, 1]


def test_chunks_share_a_ranks_costs():
    """With c chunks a chunk costs 1/c, so the busy time stays."""
    looped = {**ABSTRACT, "schedule": {"name": "interleaved-1f1b", "chunks": 2}}
    assert pipesim.simulate(looped).metrics["ranks"][0]["busy_s"] == 24.0


@pytest.mark.parametrize("engine", ["event", "compiled"])
def test_the_same_config_gives_the_same_bytes(engine):
    """Twice from the file, once from the resolved config that the result carries."""
    first = pipesim.simulate(MAIN, engine=engine).to_json()
    assert pipesim.simulate(MAIN, engine=engine).to_json() == first
    again = pipesim.simulate(json.loads(first)["config"], engine=engine)
    assert again.to_json() == first


def test_both_engines_report_the_same():
    """Everything, to the last digit."""
    assert pipesim.simulate(MAIN, engine="compiled").to_json() == pipesim.simulate(MAIN, engine="event").to_json()


def test_the_breakdown_sums_to_the_step_time():
    """On every rank and in the mean (floats: sums of eight quotients)."""
    metrics = pipesim.simulate(MAIN).metrics
    for part in [metrics, *metrics["ranks"]]:
        assert sum(part["time_breakdown"].values()) == pytest.approx(metrics["step_time_s"], rel=1e-12)


def test_timeline_and_memory_are_tables():
    """Columns as promised; every op of the step and every transfer is a row."""
    result = pipesim.simulate(ABSTRACT)
    columns = ["rank", "resource", "kind", "stage", "microbatch", "route", "start_s", "end_s", "pair"]
    assert list(result.timeline.columns) == columns
    assert (result.timeline["resource"] == "compute").sum() == 64
    assert (result.timeline["resource"] == "p2p").sum() == 2 * 3 * 8
    assert list(result.memory.columns) == ["rank", "time_s", "category", "bytes"]


def test_a_profile_replaces_modelled_costs(tmp_path):
    """Measured seconds per stage give (M + P - 1)(F + B) with every transfer on top."""
    rows = "\n".join(f"{stage},2,4" for stage in range(4))
    (tmp_path / "measured.csv").write_text(f"stage,forward_s,backward_s\n{rows}\n")
    config = {
        "model": "gpt2-1.3b",
        "cluster": {"gpu": "a100-sxm-80gb", "gpus_per_node": 4, "nodes": 1},
        "parallelism": {"pipeline": 4},
        "schedule": "1f1b",
        "training": {"global_batch": 8},
        "costs": {"profile": str(tmp_path / "measured.csv")},
    }
    metrics = pipesim.simulate(config).metrics
    assert [rank["busy_s"] for rank in metrics["ranks"]] == [48.0] * 4
    assert 66 < metrics["compute_makespan_s"] < 66.1


@pytest.mark.parametrize("network", ["fifo", "fair"])
@pytest.mark.parametrize("data", [1, 2])
def test_a_shared_network_is_at_least_as_slow_as_the_ideal_one(network, data):
    """On the main example's, with one replica and with two, whose gradients cross the same cards; overlapped, as what
    messages of one blocking exchange wait for each other is an upper estimate on the ideal network.
    """
    replicas = [f"parallelism.data={data}", f"cluster.nodes={12 * data}", "simulation.p2p=overlapped"]
    ideal = pipesim.simulate(pipesim.load(MAIN, replicas)).metrics
    shared = pipesim.simulate(pipesim.load(MAIN, [*replicas, f"simulation.network={network}"])).metrics
    assert shared["step_time_s"] >= ideal["step_time_s"]
    assert shared["bubble_fraction"] >= ideal["bubble_fraction"]


@pytest.mark.parametrize("network", ["fifo", "fair"])
def test_a_shared_network_says_that_it_needs_the_event_engine(network):
    """The compiled engine cannot share links."""
    config = pipesim.load(MAIN, [f"simulation.network={network}", "training.global_batch=12"])
    notes = pipesim.simulate(config, engine="compiled").metrics["warnings"]
    assert f"network {network} needs the event engine; it was used instead of the compiled one" in notes


def test_gradients_and_messages_on_the_same_cards_slow_each_other_down():
    """405B over 1024 GPUs: one node per rank, whose cards carry both; shared fairly both go on, in turn they wait."""
    base = ["training.global_batch=128"]
    config = ROOT / "configs" / "llama3_405b_h100.yaml"
    ideal, fair, fifo = (
        pipesim.simulate(pipesim.load(config, [*base, f"simulation.network={network}"])).metrics["step_time_s"]
        for network in ("ideal", "fair", "fifo")
    )
    assert ideal < fair < 1.01 * ideal < fifo


def test_a_schedule_that_cannot_run_is_a_config_error():
    """With the numbers that would do."""
    config = {**ABSTRACT, "schedule": "interleaved-1f1b", "pipeline": {"ranks": 4, "microbatches": 6}}
    with pytest.raises(ConfigError, match="use 4 or 8 micro-batches"):
        pipesim.simulate(config)


@pytest.mark.parametrize(("network", "hint"), [("ideal", "engine: compiled"), ("fair", "network: ideal")])
def test_too_much_for_the_event_engine_is_refused_before_anything_is_built(network, hint):
    """More ops than it replays in half a minute are an error that names the other engine."""
    config = {"pipeline": {"ranks": 8, "microbatches": 10**6}, "costs": {"forward": 1e-6}, "schedule": "1f1b"}
    with pytest.raises(ConfigError) as caught:
        pipesim.simulate({**config, "simulation": {"network": network}})
    (problem,) = caught.value.problems
    assert (problem.path, problem.found) == (
        "simulation.engine",
        "8 stages x 1000000 micro-batches x F, I and W = 2.4e+07 ops on 8 ranks",
    )
    assert "fewer micro-batches" in problem.allowed
    assert hint in problem.nearest


def test_the_critical_path_is_work_without_a_break():
    """GPipe: down the ranks with the first forward, then the last rank, then up: 33 units, no gap."""
    path = pipesim.simulate({**ABSTRACT, "schedule": "gpipe"}).critical_path
    assert (path[0][1], path[-1][2]) == (0.0, 33.0)
    assert all(before[2] == after[1] for before, after in pairwise(path))
    assert [rank for rank, _, _ in path] == [0, 1, 2, 3, 2, 1, 0]


@pytest.mark.parametrize("forward", [1e4, 1e6, 1e23])
def test_times_that_cannot_be_counted_are_refused(forward):
    """1e4 s per op and 32 ops is fine; beyond 64 bits of picoseconds the error says so, whichever way it overflows."""
    config = {**ABSTRACT, "costs": {"forward": forward}}
    if forward < 1e5:
        assert pipesim.simulate(config).metrics["step_time_s"] > forward
        return
    with pytest.raises(PipesimError, match="more than can be counted"):
        pipesim.simulate(config)


def test_every_hop_and_group_knows_its_link():
    """Tensor parallelism stays on NVLink; each of the twelve hops of the main example crosses nodes."""
    links = pipesim.simulate(MAIN).metrics["links"]
    assert [(hop["from"], hop["to"]) for hop in links["hops"]] == [(r, (r + 1) % 12) for r in range(12)]
    assert {hop["link"] for hop in links["hops"]} == {"infiniband-hdr"}
    assert links["groups"] == {"tensor": {"size": 8, "nodes": 1, "link": "nvlink3"}}
    new = pipesim.simulate(pipesim.load(MAIN, ["training.old_nccl=false"])).metrics["links"]["hops"]
    assert {hop["bandwidth_bytes_per_s"] > links["hops"][0]["bandwidth_bytes_per_s"] for hop in new} == {True}
    shared = pipesim.load(
        MAIN, ["parallelism={pipeline: 24, tensor: 4}", "schedule.chunks=2", "training.global_batch=24"]
    )
    found = [hop["link"] for hop in pipesim.simulate(shared).metrics["links"]["hops"]]
    assert found == ["nvlink3", "infiniband-hdr"] * 12
    assert pipesim.simulate(ABSTRACT).metrics["links"] is None


def test_what_a_schedule_finds_at_the_costs_names_config_and_section():
    """Copies to the host that take longer than computing are found after the config has been read."""
    changes = ["schedule=pipe-offload", "training.recompute=none"]
    with pytest.raises(ConfigError, match=r"(?s)gpt3_175b_a100\.yaml: 1 problem.*\n  schedule: .*cannot be hidden"):
        pipesim.simulate(pipesim.load(MAIN, changes))


@pytest.mark.parametrize("data", [1, 2, 8])
@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1", {"name": "breadth-first", "chunks": 8}])
def test_every_zero_stage_needs_less_memory(schedule, data):
    """Where there are replicas to shard over, and enough stages or layers that not all are gathered at a time."""
    config = {
        "model": "llama-2-7b",
        "cluster": {"gpu": "a100-sxm-80gb", "gpus_per_node": 8, "nodes": 8},
        "parallelism": {"pipeline": 4, "tensor": 2, "data": data},
        "schedule": schedule,
        "training": {"global_batch": 8 * data},
    }
    results = [pipesim.simulate(pipesim.load(config, [f"training.zero={stage}"])) for stage in range(4)]
    needed = [result.metrics["memory"]["peak_bytes"] for result in results]
    assert needed == (sorted(needed, reverse=True) if data > 1 else [needed[0]] * 4)
    assert len(set(needed)) == (4 if data > 1 else 1)
