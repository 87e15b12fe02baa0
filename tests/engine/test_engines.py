"""The event engine and the compiled one agree to the picosecond; streams, lags and deadlocks behave."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from replay import costs

from pipesim.engine import compiled, event, fifo
from pipesim.errors import DeadlockError, ScheduleError
from pipesim.ir.placement import linear
from pipesim.ir.program import Program
from pipesim.lowering.bind import bind, traffic
from pipesim.lowering.connect import connect
from pipesim.lowering.lower import Lowering, lower
from pipesim.schedules import Setting, create

SCHEDULES = [
    ("gpipe", {}),
    ("1f1b", {}),
    ("interleaved-1f1b", {"chunks": 2}),
    ("interleaved-1f1b", {"chunks": 3}),
    ("breadth-first", {"chunks": 2}),
    ("breadth-first", {"chunks": 4, "backward_order": "descending"}),
    ("chimera", {}),
    ("bitpipe", {}),
    ("zb-h1", {}),
    ("dualpipe-v", {}),
]


def random_costs(program, draw):
    """Random integer durations, zeros and ties included, with every kind of extra op switched on or off."""
    stages = program.placement.stages
    numbers = st.lists(st.integers(0, 5), min_size=stages, max_size=stages)
    priced = costs(program, *(np.array(draw(numbers)) for _ in range(3)), draw(st.integers(0, 4)))
    extra = {name: np.array(draw(numbers)) * 1e-12 for name in ("recompute", "optimizer", "reduce_grad", "unshard")}
    chosen = {name: value for name, value in extra.items() if draw(st.booleans())}
    buckets = np.array(draw(st.lists(st.integers(1, 3), min_size=stages, max_size=stages)))
    return replace(priced, times=replace(priced.times, **chosen), gradient_buckets=buckets)


@st.composite
def bound_graphs(draw):
    """A bound graph of any schedule with any lowering."""
    name, options = draw(st.sampled_from(SCHEDULES))
    ranks = draw(st.integers(1, 5))
    schedule, microbatches = create(name, **options), ranks * draw(st.integers(1, 3))
    try:
        program = schedule.program(Setting(ranks, microbatches))
    except ScheduleError:
        reject()
    priced = random_costs(program, draw)
    lowering = Lowering(
        p2p=draw(st.sampled_from(["overlapped", "blocking"])),
        zero=draw(st.integers(0, 3)),
        synchronous=draw(st.booleans()),
        blocking_reductions=draw(st.booleans()),
    )
    return bind(lower(program, priced, lowering), priced)


@settings(deadline=None, max_examples=150)
@given(bound_graphs())
def test_engines_give_the_same_integers(graph):
    """Start, end and arrival of every node agree, whatever the schedule, the lowering and the durations."""
    expected, found = event.run(graph), compiled.run(graph)
    for name in ("start", "end", "arrival"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()


@settings(deadline=None, max_examples=50)
@given(bound_graphs())
def test_nothing_starts_before_it_may(graph):
    """On each stream ops follow each other, and no op starts before its last dependency has arrived."""
    timeline = event.run(graph)
    consumer = np.repeat(np.arange(len(graph)), np.diff(graph.dep_starts))
    assert (timeline.start[consumer] >= timeline.arrival).all()
    inner = np.setdiff1d(np.arange(1, len(graph)), graph.starts)
    assert (timeline.start[inner] >= timeline.end[inner - 1]).all()
    assert (timeline.end - timeline.start == graph.duration).all()


@settings(deadline=None, max_examples=50)
@given(bound_graphs(), st.integers(2, 7))
def test_scaling_all_durations_scales_the_timeline(graph, factor):
    """Times are linear in the costs."""
    scaled = graph.bound(graph.duration * factor, graph.dep_lag * factor)
    assert (compiled.run(scaled).end == compiled.run(graph).end * factor).all()


@settings(deadline=None, max_examples=50)
@given(bound_graphs(), st.data())
def test_a_longer_op_never_ends_the_step_earlier(graph, data):
    """The makespan is monotone in every duration."""
    node = data.draw(st.integers(0, len(graph) - 1))
    longer = graph.duration.copy()
    longer[node] += 3
    assert compiled.run(graph.bound(longer, graph.dep_lag)).end.max() >= compiled.run(graph).end.max()


def crossed():
    """Two ranks that each wait for the other's backward before doing their own part of it."""
    orders = [["0F0", "0B1", "0F1", "0B0"], ["1F0", "1B0", "1F1", "1B1"]]
    program = Program.from_orders(linear(2), orders)
    return bind(connect(program), costs(program))


@pytest.mark.parametrize("engine", [event, compiled])
def test_deadlock_names_what_each_rank_waits_for(engine):
    """The message has one line per stuck rank, with the op and what it waits on."""
    with pytest.raises(DeadlockError) as error:
        engine.run(crossed())
    assert "rank 0 cannot start 0B1: waiting on 1B1 on rank 1" in str(error.value)
    assert "rank 1 cannot start 1F1: waiting on 0F1 on rank 0" in str(error.value)


def shared_run(hop_s, seconds_per_byte, message):
    """GPipe on two ranks with micro-batches of no duration, so that three messages leave at once."""
    program = create("gpipe").program(Setting(2, 3))
    priced = costs(program, 0, 0, 0, hop_s)
    sizes = replace(priced.sizes, message=np.full(2, message))
    hops = replace(priced.hops, seconds_per_byte=np.full((2, 2), seconds_per_byte))
    priced = replace(priced, sizes=sizes, hops=hops)
    graph = bind(lower(program, priced), priced)
    return fifo.run(graph, traffic(graph, priced)), event.run(graph)


def test_fifo_serves_one_transfer_at_a_time():
    """Three simultaneous messages of 10 each arrive at 10, 20, 30 plus the latency; the ideal network: together."""
    shared, ideal = shared_run(hop_s=4, seconds_per_byte=1e-12, message=10.0)
    forwards = slice(3, 6)  # after the dependencies of rank 0, which receives gradients
    assert shared.arrival[forwards].tolist() == [14, 24, 34]
    assert ideal.arrival[forwards].tolist() == [14, 14, 14]


def test_fifo_without_bandwidth_cost_is_ideal():
    """Latency occupies no port, so pure latency gives the ideal timeline."""
    shared, ideal = shared_run(hop_s=4, seconds_per_byte=0.0, message=10.0)
    assert shared.start.tolist() == ideal.start.tolist()


@settings(deadline=None, max_examples=40)
@given(bound_graphs())
def test_fifo_is_never_faster_than_ideal(graph):
    """Queueing can only delay; with every transfer on its own ports nothing is delayed."""
    edges = len(graph.dep_node)
    from pipesim.ir.traffic import Traffic

    none = Traffic(np.full((edges, 2), -1), np.maximum(graph.dep_lag, 0), np.full((len(graph), 2), -1))
    one = Traffic(np.zeros((edges, 2), np.int32), np.maximum(graph.dep_lag, 0), np.full((len(graph), 2), -1))
    ideal = event.run(graph)
    assert fifo.run(graph, none).start.tolist() == ideal.start.tolist()
    assert (fifo.run(graph, one).start >= ideal.start).all()
