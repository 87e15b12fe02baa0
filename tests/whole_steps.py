"""Simulated steps of many schedules, with everything that lowering adds; shared by tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from replay import UNIT, costs

from pipesim.engine import event
from pipesim.lowering.bind import bind
from pipesim.lowering.lower import Lowering, lower
from pipesim.schedules import Setting, create

NAMES = ["gpipe", "1f1b", "interleaved-1f1b", "breadth-first", "chimera", "bitpipe", "gems", "hanayo"]


def program_of(name, ranks=4, microbatches=8):
    return create(name).program(Setting(ranks, microbatches))


def step(name, microbatches=8, lowering=None, hop=0, **times):
    program = program_of(name, 4, microbatches)
    base = costs(program, 3, 4, 5, hop)
    stages = program.placement.stages
    extra = {key: np.full(stages, value * UNIT) for key, value in times.items()}
    priced = replace(base, times=replace(base.times, **extra))
    return event.run(bind(lower(program, priced, lowering), priced)), priced


steps = st.builds(
    step,
    st.sampled_from(NAMES),
    st.sampled_from([4, 8]),
    st.builds(Lowering, p2p=st.sampled_from(["overlapped", "blocking"]), zero=st.integers(0, 3)),
    st.integers(0, 6),
    recompute=st.integers(0, 3),
    reduce_grad=st.integers(0, 9),
    optimizer=st.integers(0, 3),
    unshard=st.integers(0, 3),
)
