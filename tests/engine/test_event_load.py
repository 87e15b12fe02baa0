"""The event engine stays lean: SimPy events per op, counted."""

from __future__ import annotations

import pytest
from replay import costs

from pipesim.engine.event import Replay
from pipesim.ir.connect import connect
from pipesim.lowering.bind import bind
from pipesim.schedules import Setting, create


def events(graph):
    """Events that a replay schedules."""
    replay = Replay(graph)
    replay.run()
    return next(replay.env._eid)


@pytest.mark.parametrize("hop", [0, 1])
@pytest.mark.parametrize(("name", "options"), [("1f1b", {}), ("gpipe", {}), ("interleaved-1f1b", {"chunks": 4})])
def test_an_op_takes_at_most_two_events(name, options, hop):
    """One for its end and one to wake its stream when it has to wait; each stream starts and ends with one."""
    program = create(name, **options).program(Setting(8, 32))
    graph = bind(connect(program), costs(program, 3, 4, 5, hop))
    assert events(graph) <= 2 * len(graph) + 2 * len(graph.streams)


def test_an_op_that_need_not_wait_takes_one_event():
    """On a single rank nobody waits for anybody."""
    program = create("1f1b").program(Setting(1, 50))
    assert events(bind(connect(program), costs(program))) == 100 + 2
