"""Bound graphs of any schedule with any lowering and random integer costs, for property tests of engines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import reject
from hypothesis import strategies as st
from replay import costs

from pipesim.errors import ScheduleError
from pipesim.lowering.bind import bind
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
