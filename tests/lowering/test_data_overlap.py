"""Communication of data parallelism beside computation: what Megatron-LM's overlap options move where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from replay import costs

from pipesim.engine import compiled, event
from pipesim.ir.op import Kind
from pipesim.lowering.bind import bind
from pipesim.lowering.lower import Lowering, lower
from pipesim.schedules import Setting, create

OVERLAPS = ("none", "gradients", "full")


def step(overlap, name="1f1b", ranks=2, microbatches=2, zero=1, buckets=4, reduce_grad=8, unshard=4, **options):
    """A step whose forwards take 4 and backwards 8, with the given reductions and gathers; the optimizer 1."""
    program = create(name, **options).program(Setting(ranks, microbatches))
    base, stages = costs(program, 4, 4, 4), program.placement.stages
    extra = {"reduce_grad": reduce_grad, "unshard": unshard, "optimizer": 1}
    times = replace(base.times, **{key: np.full(stages, float(value)) * 1e-12 for key, value in extra.items()})
    priced = replace(base, times=times, gradient_buckets=np.full(stages, buckets))
    return event.run(bind(lower(program, priced, Lowering(zero=zero, data_overlap=overlap)), priced))


def spans(timeline, kind, rank):
    """(start, end) of ops of a kind on a rank."""
    chosen = (timeline.graph.kind == kind) & (timeline.graph.rank == rank)
    return list(zip(timeline.start[chosen].tolist(), timeline.end[chosen].tolist(), strict=True))


def test_without_overlap_everything_comes_after_the_last_backward():
    """Rank 0 computes until 36: reductions, the update, the gather, one after the other."""
    timeline = step("none")
    assert spans(timeline, Kind.B, 0)[-1] == (28, 36)
    assert spans(timeline, Kind.REDUCE_GRAD, 0) == [(36, 38), (38, 40), (40, 42), (42, 44)]
    assert spans(timeline, Kind.OPT, 0) == [(44, 45)]
    assert spans(timeline, Kind.UNSHARD, 0) == [(45, 49)]
    assert timeline.makespan == 49


def test_gradients_leave_layer_by_layer_during_the_last_backward():
    """Every quarter of it one bucket, so only the last one is left when it ends."""
    timeline = step("gradients")
    assert spans(timeline, Kind.REDUCE_GRAD, 0) == [(30, 32), (32, 34), (34, 36), (36, 38)]
    assert timeline.makespan == 43


def test_updated_weights_are_gathered_before_the_next_steps_forwards():
    """The first forward waits for the first of four layers, 1 of 4; the other rank's gather is done by then."""
    timeline = step("full")
    assert spans(timeline, Kind.UNSHARD, 0) == spans(timeline, Kind.UNSHARD, 1) == [(0, 4)]
    assert spans(timeline, Kind.F, 0)[0] == (1, 5)
    assert spans(timeline, Kind.F, 1)[0] == (5, 9)
    assert timeline.makespan == 43 - 4 + 1


def test_a_long_gather_holds_what_follows_the_first_forward():
    """Gathering takes 40: the first forward begins after its first layer, the second when all are there."""
    timeline = step("full", unshard=40)
    assert [start for start, _ in spans(timeline, Kind.F, 0)] == [10, 40]


def test_chunks_are_gathered_in_the_order_of_their_first_forward():
    """Interleaved: the first chunk's weights first; the second's hide behind it."""
    timeline = step("full", "interleaved-1f1b", microbatches=4, chunks=2)
    gathers = (timeline.graph.kind == Kind.UNSHARD) & (timeline.graph.rank == 0)
    assert timeline.graph.stage[gathers].tolist() == [0, 2]
    assert timeline.start[gathers].tolist() == [0, 4]


def test_from_zero_2_on_no_overlap_means_that_computation_waits():
    """Each backward's gradients are reduced before the next op, and none while a rank computes."""
    timeline = step("none", zero=2, buckets=1)
    for rank in range(2):
        compute = spans(timeline, Kind.F, rank) + spans(timeline, Kind.B, rank)
        for start, end in spans(timeline, Kind.REDUCE_GRAD, rank):
            assert all(end <= begin or finish <= start for begin, finish in compute)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([("1f1b", {}), ("gpipe", {}), ("interleaved-1f1b", {"chunks": 2}), ("zb-h1", {}), ("chimera", {})]),
    st.sampled_from([2, 4]),
    st.integers(0, 30),
    st.integers(0, 30),
    st.integers(1, 4),
)
def test_more_overlap_never_takes_longer(schedule, ranks, reduce_grad, unshard, buckets):
    """And both engines agree. No deadline: the first run compiles an engine."""
    name, options = schedule
    arguments = {"ranks": ranks, "microbatches": 8, "reduce_grad": reduce_grad, "unshard": unshard, "buckets": buckets}
    timelines = [step(overlap, name, **arguments, **options) for overlap in OVERLAPS]
    makespans = [timeline.makespan for timeline in timelines]
    assert makespans == sorted(makespans, reverse=True)
    assert [compiled.run(timeline.graph).makespan for timeline in timelines] == makespans


def test_a_fully_sharded_only_stage_begins_with_the_weights_of_its_first_layer():
    """Gathering takes 40, of four layers: the forward begins after the first, the backward when all are there."""
    timeline = step("gradients", ranks=1, microbatches=1, zero=3, unshard=40)
    assert spans(timeline, Kind.UNSHARD, 0) == [(0, 40), (40, 80)]
    assert spans(timeline, Kind.F, 0) == [(10, 14)]
    assert spans(timeline, Kind.B, 0) == [(50, 58)]
