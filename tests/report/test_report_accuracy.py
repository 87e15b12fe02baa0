"""The plot of predictions against measurements."""

from __future__ import annotations

import numpy as np

from pipesim.report.accuracy import Point, figure

TIMES = [Point("one", 1.0, 1.1, "step_time_s", 0.1), Point("one", 2.0, 2.0, "step_time_s", 0.0)]
OTHERS = [Point("two", 40.0, 38.0, "step_time_s", -0.05)]
BYTES = [Point("two", gigabytes * 1e9, gigabytes * 1e9, "peak_bytes", 0.2) for gigabytes in (8, 16, 40)]


def test_a_panel_per_quantity_and_one_for_the_errors() -> None:
    times, memory, errors = [ax for ax in figure([*TIMES, *OTHERS, *BYTES]).axes if ax.axison]
    assert times.get_title(loc="left") == "step time (s)"
    assert [text.get_text() for text in times.get_legend().get_texts()] == ["within 10 %", "one", "two"]
    assert [text.get_text() for text in memory.get_legend().get_texts()] == ["within 10 %", "two"]
    assert [label.get_text() for label in errors.get_yticklabels()] == ["one", "two", "two, memory"]


def test_dots_are_at_measured_and_predicted() -> None:
    times = figure([*TIMES, *OTHERS]).axes[0]
    drawn = {line.get_label(): np.array(line.get_xydata()).tolist() for line in times.lines}
    assert drawn["one"] == [[1.0, 1.1], [2.0, 2.0]]
    assert drawn["two"] == [[40.0, 38.0]]


def test_errors_are_in_per_cent_with_their_mean() -> None:
    errors = figure([*TIMES, *OTHERS]).axes[-1]
    dots, mean = errors.lines[1], errors.lines[2]
    np.testing.assert_allclose(dots.get_xdata(), [10, 0])
    np.testing.assert_allclose(mean.get_xdata(), [5])


def test_sources_of_a_panel_look_different() -> None:
    points = [Point(f"source {n}", 1.0 + n, 1.0 + n, "step_time_s", 0.0) for n in range(20)]
    lines = figure(points).axes[0].lines[1:]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 20


def test_few_points_are_drawn_as_errors_alone() -> None:
    (errors,) = [ax for ax in figure(TIMES).axes if ax.axison]
    assert [label.get_text() for label in errors.get_yticklabels()] == ["one"]
