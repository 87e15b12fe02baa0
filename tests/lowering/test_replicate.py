"""Replicas in one graph are the same step side by side, and meet for collectives only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay import UNIT, costs

from pipesim.engine import compiled, event
from pipesim.ir.op import Kind
from pipesim.lowering.bind import bind
from pipesim.lowering.lower import Lowering, lower
from pipesim.lowering.replicate import MEETINGS, replicate, slowed
from pipesim.metrics.busy import measure
from pipesim.metrics.memory import in_flight
from pipesim.schedules import Setting, create

NAMES = ["1f1b", "interleaved-1f1b", "chimera", "dualpipe", "zb-h1"]


def step(name="1f1b", ranks=4, microbatches=8, zero=1, buckets=2, p2p="overlapped"):
    program = create(name).program(Setting(ranks, microbatches))
    stages = program.placement.stages
    base = costs(program, 4, 3, 5, hop=2)
    extra = {"reduce_grad": 7, "unshard": 6, "optimizer": 2}
    times = replace(base.times, **{key: np.full(stages, value * UNIT) for key, value in extra.items()})
    price = replace(base, times=times, gradient_buckets=np.full(stages, buckets))
    return bind(lower(program, price, Lowering(zero=zero, p2p=p2p)), price)


def of_replica(graph, copies, replica):
    """Nodes of one replica in the replicated graph, in the order of the graph that was replicated."""
    compute, others = graph.compute_nodes, len(graph) - graph.compute_nodes
    first = copies * compute + replica * others
    return np.append(np.arange(replica * compute, (replica + 1) * compute), np.arange(first, first + others))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("p2p", ["overlapped", "blocking"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_equal_replicas_are_the_step_itself(name, p2p, zero):
    """Nobody is slower, so nobody waits: every replica has the times of a single one."""
    graph = step(name, p2p=p2p, zero=zero)
    single, all_of_them = event.run(graph), event.run(replicate(graph, 3))
    for replica in range(3):
        nodes = of_replica(graph, 3, replica)
        assert all_of_them.end[nodes].tolist() == single.end.tolist()
        assert all_of_them.graph.kind[nodes].tolist() == graph.kind.tolist()


def slow_replica(graph, copies, replica, factor):
    factors = np.ones(copies * graph.ranks)
    factors[replica * graph.ranks : (replica + 1) * graph.ranks] = factor
    return slowed(replicate(graph, copies), factors)


@pytest.mark.parametrize("name", NAMES)
def test_collectives_wait_for_the_slowest_replica(name):
    """One of three replicas takes twice as long: it runs as if alone, and all collectives start with its own."""
    graph = step(name, zero=1)
    alone = event.run(slowed(graph, np.full(graph.ranks, 2.0)))
    together = event.run(slow_replica(graph, 3, 1, 2.0))
    meets = np.isin(graph.kind, MEETINGS)
    assert together.end[of_replica(graph, 3, 1)].tolist() == alone.end.tolist()
    for replica in (0, 2):
        nodes = of_replica(graph, 3, replica)
        assert together.start[nodes][meets].tolist() == alone.start[meets].tolist()


def test_compute_of_a_fast_replica_does_not_wait():
    """With gradients reduced at the end, all but the optimizer runs as in a step without the slow replica."""
    graph = step("1f1b")
    single, together = event.run(graph), event.run(slow_replica(graph, 2, 1, 3.0))
    compute = graph.kind <= Kind.B
    nodes = of_replica(graph, 2, 0)
    assert together.end[nodes][compute].tolist() == single.end[compute].tolist()


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(NAMES), st.integers(0, 3), st.integers(1, 4), st.integers(0, 10**6))
def test_engines_agree_on_unequal_replicas(name, zero, copies, seed):
    """Start and end of every op, barriers included."""
    graph = replicate(step(name, zero=zero), copies)
    graph = slowed(graph, 1 + np.random.default_rng(seed).random(graph.ranks))
    assert compiled.run(graph).end.tolist() == event.run(graph).end.tolist()


def test_metrics_of_replicas_are_those_of_one():
    """Busy time and activations in flight of every rank, replica after replica."""
    graph = step("interleaved-1f1b")
    one, three = event.run(graph), event.run(replicate(graph, 3))
    assert measure(three).busy.tolist() == 3 * measure(one).busy.tolist()
    assert measure(three).bubble_fraction == pytest.approx(measure(one).bubble_fraction)  # sums of floats
    assert in_flight(three.graph).tolist() == 3 * in_flight(graph).tolist()


def test_replicas_have_micro_batches_and_ranks_of_their_own():
    """Two replicas of two ranks and three micro-batches: ranks 0-3, micro-batches 0-5, two routes."""
    graph = replicate(step("1f1b", 2, 3), 2)
    assert graph.placement.rank_of.tolist() == [[0, 1], [2, 3]]
    assert graph.route_of.tolist() == [0, 0, 0, 1, 1, 1]
    forwards = graph.kind == Kind.F
    assert set(graph.microbatch[forwards & (graph.rank == 3)].tolist()) == {3, 4, 5}


def test_slowing_scales_what_a_rank_computes():
    """To the nearest picosecond; collectives and hops keep their times, buckets leave at the same share of a B."""
    graph = step("1f1b", buckets=2)
    slow = slowed(graph, np.array([1.0, 1.5, 1.0, 1.0]))
    compute = (graph.kind <= Kind.B) & (graph.rank == 1)
    assert (slow.duration[compute] == np.rint(graph.duration[compute] * 1.5)).all()
    others = ~compute & (graph.kind != Kind.OPT)
    assert (slow.duration[others] == graph.duration[others]).all()
    assert sorted(slow.dep_lag[slow.dep_lag < 0].tolist()) == [-6, -4, -4, -4]
