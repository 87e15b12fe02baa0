"""The event engine and the compiled one agree to the picosecond; streams, lags and deadlocks behave."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import bound_graphs
from replay import costs

from pipesim.engine import compiled, event
from pipesim.errors import DeadlockError
from pipesim.ir.connect import connect
from pipesim.ir.placement import linear
from pipesim.ir.program import Program
from pipesim.lowering.bind import bind


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
