"""Comparisons put runs side by side in a picture."""

from __future__ import annotations

import pytest
from metrics_examples import ABSTRACT_RUN, CLUSTER_RUN, misfit
from timeline_frames import memory_of, run

from pipesim.errors import PipesimError
from pipesim.report import compare
from pipesim.report.colours import PAINTS
from pipesim.report.figures import encode

FRAME = run("1f1b", 4, 8)
FASTER = {**CLUSTER_RUN, "step_time_s": 12.3456 / 2}
RUNS = [
    ("plain", CLUSTER_RUN, FRAME, memory_of(FRAME)),
    ("faster", FASTER, run("interleaved-1f1b", 4, 8, chunks=2), memory_of(FRAME)),
    ("too big", misfit(), run("gpipe", 4, 8), memory_of(FRAME)),
]


def test_nothing_to_compare_is_an_error():
    """There is no empty figure."""
    with pytest.raises(PipesimError, match="at least one run"):
        compare.figure([])


def test_gantt_charts_share_one_time_axis():
    """All end at the longest timeline; only the last one has tick labels and a label."""
    charts = compare.figure(RUNS).axes[::3]
    longest = max(frame.end_s.max() for _, _, frame, _ in RUNS)
    assert [chart.get_xlim() for chart in charts] == [(0.0, longest)] * 3
    assert [chart.get_xlabel() for chart in charts] == ["", "", "time (ms)"]
    assert [chart.get_title(loc="left") for chart in charts] == ["plain", "faster", "too big"]
    assert [chart.get_title(loc="right") for chart in charts] == [
        "12346 ms",
        "6173 ms, 0.500 × the first",
        "12346 ms, 1.000 × the first",
    ]


def test_bars_show_bubble_and_memory_on_common_scales():
    """One bar of each per plan, beyond its capacity hatched, with the value beside."""
    axes = compare.figure(RUNS).axes
    bubbles, memory = axes[1::3], axes[2::3]
    assert [ax.patches[0].get_width() for ax in bubbles] == [0.0812] * 3
    assert [ax.patches[0].get_width() for ax in memory] == [76e9, 76e9, 91.2e9]
    assert [ax.patches[0].get_hatch() is not None for ax in memory] == [False, False, True]
    assert [ax.texts[0].get_text() for ax in memory] == ["76.0 GB", "76.0 GB", "91.2 GB"]
    assert len({ax.get_xlim() for ax in memory}) == 1
    assert [ax.lines[0].get_xdata()[0] for ax in memory] == [80e9] * 3


def test_plans_that_do_not_fit_are_marked_above_their_chart():
    """In words, not by colour alone."""
    charts = compare.figure(RUNS).axes[::3]
    marks = [chart.get_title(loc="center") for chart in charts]
    assert marks == ["", "", "does not fit: 91.2 GB of 80.0 GB"]


def test_abstract_plans_are_compared_by_micro_batches_in_flight():
    """Without bytes, the third column shows what stands for them."""
    axes = compare.figure([("a", ABSTRACT_RUN, FRAME), ("b", ABSTRACT_RUN, FRAME)], title="two").axes
    assert axes[2].get_title(loc="left") == "peak in flight"
    assert [ax.patches[0].get_width() for ax in axes[2::3]] == [4, 4]
    assert axes[0].get_title(loc="right") == "33"


def test_a_legend_of_many_kinds_stays_inside_the_figure():
    """In as many rows as that takes."""
    frame = run("bitpipe", 4, 8)
    frame["kind"] = [list(PAINTS)[n % len(PAINTS)] for n in range(len(frame))]
    figure = compare.figure([("all", CLUSTER_RUN, frame, memory_of(FRAME))])
    figure.draw_without_rendering()
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert set(names) > {paint.name for paint in PAINTS.values()}
    assert 0 <= legend.get_window_extent().x0 < legend.get_window_extent().x1 <= figure.bbox.width


def test_the_figure_is_drawn_the_same_every_time():
    """One plan or three, to the byte."""
    for runs in (RUNS[:1], RUNS):
        assert encode(compare.figure(runs), "png", 60) == encode(compare.figure(runs), "png", 60)
