"""GEMS: one micro-batch at a time on every rank, and the bubbles that this costs."""

from __future__ import annotations

from fractions import Fraction

import pytest
from published_orders import run, setting
from replay import idle, peak_in_flight, replay

from pipesim.schedules import Setting, create


def test_grid():
    """F and B of a down micro-batch, then of an up one, on three ranks."""
    assert create("gems").program(Setting(3, 3)).grid().splitlines() == [
        "0 | 0F0 0B0 2F1 2B1 0F2 0B2",
        "1 | 1F0 1B0 1F1 1B1 1F2 1B2",
        "2 | 2F0 2B0 0F1 0B1 2F2 2B2",
    ]


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_one_pair_and_the_period_of_further_pairs(ranks):
    """A pair takes 3P+1 slots at B = F and 5P+1 at B = 2F; each further one 2P+2 and 4P+2 more."""
    for backward, first, period in ((1, 3 * ranks + 1, 2 * ranks + 2), (2, 5 * ranks + 1, 4 * ranks + 2)):
        for more in range(3):
            program = create("gems").program(Setting(ranks, 2 + 2 * more))
            assert run(program, 1, backward).makespan == first + more * period


@pytest.mark.parametrize(("forward", "backward"), [(2, 2), (10, 13), (2, 4), (2, 6)])
@pytest.mark.parametrize(("ranks", "microbatches"), [(1, 3), (2, 1), (3, 2), (4, 7), (8, 8)])
def test_theory_equals_the_replay(ranks, microbatches, forward, backward):
    """For any number of ranks and micro-batches, odd ones too."""
    schedule = create("gems")
    asked = setting(ranks, microbatches, ranks, forward, backward)
    theory, program = schedule.theory(asked), schedule.program(asked)
    timeline = run(program, forward, backward)
    exact = Fraction(sum(idle(timeline)), ranks * timeline.makespan)
    assert theory.bubble_fraction == pytest.approx(float(exact), rel=1e-12, abs=1e-15)  # two float divisions
    assert list(theory.peak_in_flight) == peak_in_flight(program)


@pytest.mark.parametrize("ranks", [4, 8, 16])
def test_bubble_tends_to_the_published_entry(ranks):
    """(P-1)/(P+1/2) for many micro-batches at B = 2F."""
    bubble = create("gems").theory(Setting(ranks, 10**9)).bubble_fraction
    assert bubble == pytest.approx((ranks - 1) / (ranks + 0.5), rel=1e-8)  # the rest falls as 1 / M


def test_at_most_two_microbatches_are_under_way():
    """From the start of a micro-batch's first forward to the end of its last backward."""
    timeline = replay(create("gems").program(Setting(6, 9)))
    first = [timeline.start[timeline.graph.microbatch == m].min() for m in range(9)]
    last = [timeline.end[timeline.graph.microbatch == m].max() for m in range(9)]
    assert all(end <= start for end, start in zip(last, first[2:], strict=False))
