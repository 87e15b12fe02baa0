"""Dense charts conserve time: what is drawn adds up to what ran."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesim.report import coverage
from pipesim.report.boxes import Boxes

lengths = st.lists(st.tuples(st.floats(0, 3), st.floats(0.01, 3)), min_size=1, max_size=30)


def intervals(pairs):
    """(gap, length) pairs as starts and ends."""
    steps = np.array(pairs).ravel().cumsum()
    return steps[::2], steps[1::2]


def lane(left, right, style, colours=((1.0, 0, 0), (0, 1.0, 0))):
    """Boxes over the full height 0..1 of one lane."""
    n = len(left)
    zero = np.zeros(n, np.int64)
    style = np.asarray(style, np.int64)
    return Boxes(
        np.array(left), np.array(right), np.zeros(n), np.ones(n), style, zero, zero, zero - 1, np.array(colours)
    )


@given(lengths, st.integers(1, 50))
def test_coverage_adds_up_to_the_busy_time(pairs, columns):
    """Summed over columns that span all intervals, covered time equals their total length."""
    left, right = intervals(pairs)
    edges = np.linspace(-1.0, right[-1] + 1.0, columns + 1)
    share = coverage.coverage(left, right, edges)
    # Interpolation in doubles over at most 30 intervals: a few units in the last place of the total.
    assert (share * np.diff(edges)).sum() == pytest.approx((right - left).sum(), rel=1e-9)


def test_what_several_intervals_cover_counts_once():
    """0..4, 1..2 and 3..6 together cover 0..6."""
    left, right = np.array([0.0, 1.0, 3.0]), np.array([4.0, 2.0, 6.0])
    assert coverage.coverage(left, right, np.array([0.0, 2.0, 6.0, 8.0])).tolist() == [1.0, 1.0, 0.0]


def test_alternating_ops_become_an_even_stack():
    """Ops of 1 and 2 in turn: every column away from the ends is a third one colour, two thirds the other."""
    left = np.cumsum(np.tile([2.0, 1.0], 300)) - 2.0
    right = np.append(left[1:], left[-1] + 2.0)
    boxes = lane(left, right, np.tile([0, 1], 300))
    image = coverage.paint(boxes, np.linspace(0, right[-1], 101), np.linspace(0, 1, 31), 18.0)
    middle = image[:, 20:80]
    assert (middle[..., 3] == 255).all()
    reds = (middle[..., 0] > 127).mean(axis=0)
    # 30 rows of pixels: 10 are red, one more or less where the border crosses a pixel.
    assert np.abs(reds - 1 / 3).max() <= 1 / 30 + 1e-9
    assert (middle[0, :, 0] == 255).all()
    assert (middle[-1, :, 1] == 255).all()


def test_long_idle_intervals_and_runs_keep_their_borders():
    """A run, a pause and a run: columns are full or empty, with the exact share where a border cuts a column."""
    boxes = lane([0.0, 50.0], [20.5, 100.0], [0, 1])
    image = coverage.paint(boxes, np.linspace(0, 100, 101), np.linspace(0, 1, 11), 12.0)
    filled = (image[..., 3] / 255).mean(axis=0)
    assert filled[:20].tolist() == [1.0] * 20
    # Half a column is five of ten rows of pixels; alpha is rounded to 1/255.
    assert filled[20] == pytest.approx(0.5, abs=0.01)
    assert filled[21:50].tolist() == [0.0] * 29
    assert filled[50:].tolist() == [1.0] * 50


@given(lengths, st.floats(0.1, 20))
def test_nothing_is_drawn_outside_its_lane_or_more_than_once(pairs, window):
    """Opacity is at most 1 everywhere and zero beside the lane, whatever is smoothed."""
    left, right = intervals(pairs)
    boxes = lane(left, right, np.arange(len(left)) % 2)
    image = coverage.paint(boxes, np.linspace(left[0], right[-1], 41), np.linspace(-0.5, 1.5, 21), window)
    assert (image[:5, :, 3] == 0).all()
    assert (image[15:, :, 3] == 0).all()
    assert image[..., 3].max() <= 255


@pytest.mark.parametrize("pixels", [0.1, 1.0, 7.3, 40.0])
def test_smoothing_kernels_sum_to_one(pixels):
    """They are symmetric too, so that nothing shifts in time."""
    kernel = coverage.smoothing(pixels)
    assert kernel.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(kernel, kernel[::-1])
