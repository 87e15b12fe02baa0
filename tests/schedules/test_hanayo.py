"""Hanayo's wave is BitPipe's down pipe alone and half of Chimera; its closed forms are exact."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from published_orders import run, setting
from replay import idle, peak_in_flight, replay

from pipesim.errors import ScheduleError
from pipesim.schedules import Setting, create


def test_grid_of_one_wave():
    """Two ranks, two micro-batches: ranks turn around on the last rank without a transfer."""
    assert create("hanayo").program(Setting(2, 2)).grid().splitlines() == [
        "0 | 0F0 0F1 3F0 3B0 3F1 3B1 0B0 0B1",
        "1 | 1F0 2F0 1F1 2F1 2B0 1B0 2B1 1B1",
    ]


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_one_wave_is_bitpipes_down_pipe_alone(ranks):
    """BitPipe's order, with the ops of its up pipe left out."""
    half = ranks // 2
    wave = create("hanayo").program(Setting(ranks, half))
    both = create("bitpipe").program(Setting(ranks, ranks))
    for rank in range(ranks):
        assert wave.tokens(rank) == [str(op) for op in both.ops(rank) if both.route_of[op.microbatch] == 0]


def test_makespan_of_the_published_panel():
    """BitPipe's README figure draws it for 4 ranks and 2 micro-batches, F = 1 and B = 2: 28 units."""
    assert run(create("hanayo").program(Setting(4, 2)), 1, 2).makespan == 28


@pytest.mark.parametrize("units", [1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_one_wave_is_the_first_half_of_chimeras_ranks(ranks, units):
    """Each down micro-batch of Chimera on 2 P ranks and its mirror image are one micro-batch here."""
    wave = create("hanayo").program(Setting(ranks, units * ranks))
    chimera = create("chimera").program(Setting(2 * ranks, units * 2 * ranks))

    def here(microbatch):
        unit, within = divmod(microbatch, 2 * ranks)
        return unit * ranks + within % ranks

    for rank in range(ranks):
        ops = [op._replace(microbatch=here(op.microbatch)) for op in chimera.ops(rank)]
        assert wave.tokens(rank) == [str(op) for op in ops]


@pytest.mark.parametrize(("forward", "backward"), [(2, 2), (10, 13), (2, 4), (2, 6)])
@pytest.mark.parametrize("waves", [1, 2, 4])
@pytest.mark.parametrize(("ranks", "microbatches"), [(1, 2), (2, 2), (3, 6), (4, 4), (4, 12), (5, 5)])
def test_theory_equals_the_replay(ranks, microbatches, waves, forward, backward):
    """Idle time (2P-2)(F + K(B-F)) on every rank, and the peak of every rank."""
    schedule = create("hanayo", waves=waves)
    asked = setting(ranks, microbatches, 2 * waves * ranks, forward, backward)
    theory, program = schedule.theory(asked), schedule.program(asked)
    timeline = run(program, forward, backward)
    lost = (2 * ranks - 2) * (forward + microbatches // ranks * (backward - forward))
    assert set(idle(timeline)) == {lost}
    exact = Fraction(lost, timeline.makespan)
    assert theory.bubble_fraction == pytest.approx(float(exact), rel=1e-12, abs=1e-15)  # one float division
    assert list(theory.peak_in_flight) == [x / (2 * waves) for x in peak_in_flight(program)]


@given(ranks=st.integers(1, 7), m=st.integers(1, 20), waves=st.sampled_from([1, 2, 3, 4]), backward=st.integers(1, 4))
def test_any_number_of_microbatches_runs(ranks, m, waves, backward):
    """Fewer than P, or not a multiple of P."""
    program = create("hanayo", waves=waves).program(Setting(ranks, m))
    assert replay(program, 1, backward, 0, 1).makespan >= 2 * waves * m * (1 + backward)


def test_at_least_one_wave():
    """Zero waves are refused."""
    with pytest.raises(ScheduleError, match="waves must be at least 1, found 0"):
        create("hanayo", waves=0).program(Setting(4, 4))
