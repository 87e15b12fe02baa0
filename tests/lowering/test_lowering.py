"""Lowering adds what a step needs and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from replay import UNIT, costs

from pipesim.engine import event
from pipesim.ir.graph import COLLECTIVE
from pipesim.ir.op import Kind
from pipesim.lowering.bind import bind
from pipesim.lowering.lower import Lowering, lower
from pipesim.schedules import Setting, create


def priced(program, **times):
    base = costs(program, 4, 4, 4)
    stages = program.placement.stages
    return replace(base, times=replace(base.times, **{k: np.full(stages, v * UNIT) for k, v in times.items()}))


def lowered(name, ranks, microbatches, lowering=None, options=None, **times):
    program = create(name, **(options or {})).program(Setting(ranks, microbatches))
    price = priced(program, **times)
    return bind(lower(program, price, lowering), price)


def count(graph, kind, rank=None):
    chosen = graph.kind == kind
    return int((chosen & (graph.rank == rank)).sum() if rank is not None else chosen.sum())


def test_nothing_is_added_when_nothing_costs():
    """Without recomputation, data parallelism or an optimizer the graph is the program."""
    graph = lowered("1f1b", 4, 8)
    assert set(graph.kind.tolist()) == {Kind.F, Kind.B}


def test_recomputation_precedes_every_backward_and_takes_the_gradient():
    """A RECOMPUTE stands right before each B, waits for the gradient in its place and costs its time."""
    graph = lowered("1f1b", 2, 3, recompute=2)
    backward = np.flatnonzero(graph.kind == Kind.B)
    assert (graph.kind[backward - 1] == Kind.RECOMPUTE).all()
    assert all(len(graph.dependencies(node)) == 0 for node in backward)
    assert event.run(graph).makespan == (4 + 8 + 2) * (3 + 2 - 1)


def test_the_optimizer_waits_for_the_slowest_rank():
    """Synchronous: all steps start together. Not synchronous: each starts as soon as its rank is done."""
    together = event.run(lowered("1f1b", 3, 3, optimizer=5))
    apart = event.run(lowered("1f1b", 3, 3, Lowering(synchronous=False), optimizer=5))
    steps = together.graph.kind == Kind.OPT
    assert len(set(together.start[steps].tolist())) == 1
    assert apart.start[apart.graph.kind == Kind.OPT].tolist() == [60, 52, 44]


@pytest.mark.parametrize(("zero", "reductions", "gathers"), [(0, 2, 0), (1, 2, 2), (2, 2, 2), (3, 2, 4)])
def test_breadth_first_gathers_once_per_pass_and_reduces_once(zero, reductions, gathers):
    """With two chunks: one reduction per stage; ZeRO-1/2 gather each stage after the step, ZeRO-3 per pass.

    Two buffers hold both stages of a rank, so with ZeRO-3 only four chunks need gathering again.
    """
    graph = lowered("breadth-first", 2, 4, Lowering(zero=zero), {"chunks": 2}, reduce_grad=3, unshard=2)
    assert count(graph, Kind.REDUCE_GRAD, 0) == reductions
    assert count(graph, Kind.UNSHARD, 0) == (2 if zero == 3 else gathers)


def gathers(name, chunks, microbatches):
    options = {"chunks": chunks} if chunks > 1 else {}
    graph = lowered(name, 4, microbatches, Lowering(zero=3), options, reduce_grad=3, unshard=2)
    return count(graph, Kind.UNSHARD, 0), count(graph, Kind.REDUCE_GRAD, 0)


def test_fully_sharded_traffic_grows_with_depth_first_but_not_with_breadth_first():
    """Breadth-first: as much for 16 micro-batches as for 8. Depth-first: per group. Not looped: per op."""
    assert gathers("breadth-first", 4, 16) == gathers("breadth-first", 4, 8)
    few, many = gathers("interleaved-1f1b", 4, 8), gathers("interleaved-1f1b", 4, 16)
    assert many[0] > few[0]
    assert many[1] > few[1]
    assert gathers("1f1b", 1, 8) == (16, 8)


def test_breadth_first_prefetch_hides_the_gathers():
    """A gather that takes less than a pass is hidden behind the pass before it, but for the first one."""
    graph = lowered("breadth-first", 2, 4, Lowering(zero=3), {"chunks": 4}, reduce_grad=0, unshard=3)
    ideal = lowered("breadth-first", 2, 4, None, {"chunks": 4})
    assert event.run(graph).makespan == event.run(ideal).makespan + 3


def test_buckets_split_a_reduction_exactly():
    """Bucket durations are integers that sum to the whole."""
    program = create("gpipe").program(Setting(2, 2))
    price = replace(priced(program, reduce_grad=10), gradient_buckets=np.array([3, 4]))
    graph = bind(lower(program, price, Lowering()), price)
    for rank, buckets in ((0, 3), (1, 4)):
        chosen = (graph.kind == Kind.REDUCE_GRAD) & (graph.rank == rank)
        assert graph.duration[chosen].sum() == 10
        assert chosen.sum() == buckets


def test_collectives_have_a_stream_per_rank():
    """They run beside the compute stream, not on it."""
    graph = lowered("1f1b", 3, 3, reduce_grad=5)
    owners = [s.rank for s in graph.streams if s.name == COLLECTIVE]
    assert owners == [0, 1, 2]


@pytest.mark.parametrize(("name", "options"), [("1f1b", {}), ("gpipe", {}), ("interleaved-1f1b", {"chunks": 2})])
def test_blocking_transfers_cost_at_least_what_overlapped_ones_do(name, options):
    """Free transfers: the same ops, each transfer once on both sides; costly ones hold the compute streams."""
    program = create(name, **options).program(Setting(4, 8))
    slow = costs(program, 4, 4, 4, hop=2)
    beside = event.run(bind(lower(program, slow, Lowering()), slow)).makespan
    graph = bind(lower(program, slow, Lowering(p2p="blocking")), slow)
    transfers = 2 * 8 * (program.placement.stages - 1)
    sends, receives = (Kind.SEND_F, Kind.SEND_B), (Kind.RECV_F, Kind.RECV_B)
    assert np.isin(graph.kind, sends).sum() == np.isin(graph.kind, receives).sum() == transfers
    assert event.run(graph).makespan > beside


def test_blocking_1f1b_pays_for_every_exchange():
    """One rank pair, M micro-batches: F and gradient of each cross once on the path, so 2M - 1 hops at least."""
    program = create("1f1b").program(Setting(2, 4))
    slow = costs(program, 4, 4, 4, hop=3)
    graph = bind(lower(program, slow, Lowering(p2p="blocking")), slow)
    timeline = event.run(graph)
    ends = {(str(graph.op(n)), int(graph.rank[n])): int(timeline.end[n]) for n in range(len(graph))}
    for microbatch in range(4):
        assert ends[f"0SEND_F{microbatch}", 0] == ends[f"1RECV_F{microbatch}", 1]
        assert ends[f"1SEND_B{microbatch}", 1] == ends[f"0RECV_B{microbatch}", 0]
