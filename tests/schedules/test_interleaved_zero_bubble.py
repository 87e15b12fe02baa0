"""Interleaved zero-bubble: PyTorch's order, and ZB-H1's bubble per chunk."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from replay import idle, peak_in_flight, replay

from pipesim.errors import ScheduleError
from pipesim.schedules import Setting, StepCosts, create

FILES = sorted((Path(__file__).parents[1] / "data" / "torch").glob("InterleavedZeroBubble_*.csv"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_order_equals_pytorchs(file):
    """Token for token the schedule that PyTorch's ScheduleInterleavedZeroBubble builds."""
    p, m, v = map(int, re.search(r"_p(\d+)_m(\d+)_v(\d+)", file.stem).groups())
    assert create("interleaved-zb", chunks=v).program(Setting(p, m)).to_csv() == file.read_text()


def test_all_golden_files_are_there():
    """The parametrisation above is not empty."""
    assert len(FILES) == 4


@pytest.mark.parametrize(("p", "m", "peak"), [(2, 4, 4), (4, 8, 8), (8, 16, 16)])
def test_activation_slots_are_pytorchs(p, m, peak):
    """The liveness analysis of torch.distributed.pipelining 2.15 counts P V slots on every rank."""
    assert peak_in_flight(create("interleaved-zb", chunks=2).program(Setting(p, m))) == [peak] * p


@pytest.mark.parametrize("costs", [(1, 1, 1), (2, 3, 2), (3, 4, 1), (2, 5, 2), (3, 2, 1)])
def test_idle_time_is_that_of_zb_h1_per_chunk(costs):
    """(P-1)(F+I-W) on every rank for whole rounds of P, whatever M and V; `theory` says so."""
    f, i, w = costs
    for p, rounds, v in [(1, 2, 2), (2, 1, 3), (2, 3, 2), (3, 2, 2), (4, 2, 1), (4, 3, 4), (5, 2, 3), (8, 2, 2)]:
        schedule, m = create("interleaved-zb", chunks=v), p * rounds
        timeline = replay(schedule.program(Setting(p, m)), *costs)
        assert idle(timeline) == [(p - 1) * (f + i - w)] * p
        times = [np.full(p * v, x) for x in costs]
        theory = schedule.theory(Setting(p, m, StepCosts(*times, 0, np.ones(p * v), np.ones(p * v))))
        # A rational number computed in floating point: a few units in the last place.
        assert theory.bubble_fraction == pytest.approx(idle(timeline)[0] / timeline.makespan, rel=1e-12)


@pytest.mark.parametrize("v", [1, 2, 3])
@pytest.mark.parametrize("p", [1, 2, 3, 5, 6])
def test_every_size_runs_or_names_two_that_do(p, v):
    """M from 1 to 3 P + 2: the program verifies and replays, or the error names numbers that do."""
    schedule = create("interleaved-zb", chunks=v)
    for m in range(1, 3 * p + 3):
        try:
            program = schedule.program(Setting(p, m))
        except ScheduleError as error:
            proposed = [int(n) for n in re.search(r"use (\d+) or (\d+)", str(error)).groups()]
            assert proposed[0] < m < proposed[1]
            for other in proposed:
                replay(schedule.program(Setting(p, other)))
        else:
            assert replay(program).makespan >= 3 * m * v


def test_the_optimizer_can_be_post_validated():
    """The option decides whether ranks wait for each other before the optimizer step."""
    assert create("interleaved-zb").synchronous_optimizer
    assert not create("interleaved-zb", optimizer="post-validated").synchronous_optimizer
