"""When, with which op and with what a rank's memory peaks, in the result and over time."""

from __future__ import annotations

import pytest

import pipesim
from pipesim.errors import ConfigError

GB = 1e9


def config(schedule="1f1b", **cluster):
    return {
        "model": {"layers": 8, "hidden": 1024, "heads": 8, "ffn": 4096, "vocab": 1024, "sequence": 1024},
        "cluster": {"gpu": "a100-sxm-80gb", "nodes": 1, **cluster},
        "parallelism": {"pipeline": 4, "data": 2},
        "schedule": schedule,
        "training": {"global_batch": 16},
    }


def test_the_peak_of_1f1b_is_the_last_forward_of_the_warm_up():
    """Rank r holds P - r micro-batches when it runs the forward number P - 1 - r."""
    ranks = pipesim.simulate(config()).metrics["ranks"]
    assert [rank["memory"]["at_op"] for rank in ranks] == ["0F3", "1F2", "2F1", "3F0"]


def test_memory_over_time_adds_up_to_the_peak_at_its_moment():
    """All categories of `Result.memory` at ``at_s``, fragmentation included."""
    result = pipesim.simulate(config())
    for rank in result.metrics["ranks"]:
        frame, at_s = result.memory, rank["memory"]["at_s"]
        own = frame[(frame["rank"] == rank["rank"]) & (frame["time_s"] <= at_s)]
        held = own.groupby("category")["bytes"].last().sum()
        assert held == pytest.approx(rank["memory"]["peak_bytes"], rel=1e-12)  # the same sum in another order


def test_the_moment_of_the_peak_is_when_its_op_starts():
    """The op named is in the timeline, on that rank, from that moment."""
    result = pipesim.simulate(config("interleaved-1f1b"))
    for rank in result.metrics["ranks"]:
        ops = result.timeline[(result.timeline["rank"] == rank["rank"]) & (result.timeline["kind"] == "F")]
        names = (ops["stage"].astype(str) + "F" + ops["microbatch"].astype(str)).tolist()
        start = ops["start_s"].iloc[names.index(rank["memory"]["at_op"])]
        assert start == pytest.approx(rank["memory"]["at_s"], abs=1e-12)


def test_allowances_are_part_of_the_buffers():
    """Context and NCCL as given, fragmentation as a share of all that is held."""
    none = {"context_memory": 0, "nccl_memory": 0, "fragmentation": 0}
    bare = pipesim.simulate(config(**none)).metrics["ranks"]
    full = pipesim.simulate(config(context_memory="2 GB", nccl_memory="1 GB", fragmentation=0.1)).metrics["ranks"]
    for one, other in zip(bare, full, strict=True):
        expected = 1.1 * (one["memory"]["peak_bytes"] + 3 * GB)
        assert other["memory"]["peak_bytes"] == pytest.approx(expected, rel=1e-12)
        extra = other["memory"]["buffers_bytes"] - one["memory"]["buffers_bytes"]
        assert extra == pytest.approx(expected - one["memory"]["peak_bytes"], rel=1e-9)  # a small difference


def test_fully_sharded_stages_have_two_buffers_each_of_whole_weights_and_gradients():
    """Breadth-first with several stages per rank: two stages whole; with one stage, two of its layers."""
    looped = config({"name": "breadth-first", "chunks": 2}, context_memory=0, nccl_memory=0, fragmentation=0)
    single = config(context_memory=0, nccl_memory=0, fragmentation=0)
    layer = 12 * 1024**2 + 13 * 1024
    for given, whole in ((looped, 2 * layer), (single, 2 * layer)):
        plain, sharded = (
            pipesim.simulate({**given, "training": {"global_batch": 16, "zero": zero}}).metrics["ranks"][1]["memory"]
            for zero in (0, 3)
        )
        assert sharded["buffers_bytes"] - plain["buffers_bytes"] == (2 + 4) * whole


@pytest.mark.parametrize(
    ("field", "value"), [("fragmentation", 1), ("fragmentation", -0.1), ("context_memory", "half"), ("nccl_memory", -1)]
)
def test_allowances_are_checked(field, value):
    """By path."""
    with pytest.raises(ConfigError, match=rf"cluster\.{field}"):
        pipesim.load(config(**{field: value}))
