"""Comparisons put runs side by side: in a table, in text and in a picture."""

from __future__ import annotations

import math

import pytest
from metrics_examples import ABSTRACT_RUN, CLUSTER_RUN, misfit
from timeline_frames import memory_of, run

from pipesim.errors import PipesimError
from pipesim.report import compare
from pipesim.report.figures import encode

FRAME = run("1f1b", 4, 8)
FASTER = {**CLUSTER_RUN, "step_time_s": 12.3456 / 2}
RUNS = [
    ("plain", CLUSTER_RUN, FRAME, memory_of(FRAME)),
    ("faster", FASTER, run("interleaved-1f1b", 4, 8, chunks=2), memory_of(FRAME)),
    ("too big", misfit(), run("gpipe", 4, 8), memory_of(FRAME)),
]


def test_one_row_per_run_relative_to_the_first():
    """Order and labels are kept; the plan that does not fit is there too."""
    data = compare.table(RUNS)
    assert tuple(data.columns) == compare.COLUMNS
    assert data.label.tolist() == ["plain", "faster", "too big"]
    assert data.relative_step_time.tolist() == [1.0, 0.5, 1.0]
    assert data.speedup.tolist() == [1.0, 2.0, 1.0]
    assert data.relative_peak_bytes.tolist() == [1.0, 1.0, pytest.approx(1.2)]
    assert data.fits.tolist() == [True, True, False]
    assert data.peak_in_flight.tolist() == [5, 5, 5]
    assert data.mfu.tolist() == [0.475] * 3


def test_unknown_quantities_are_missing_values():
    """An abstract run has times and bubbles, no bytes and no rates."""
    (row,) = compare.table([("abstract", ABSTRACT_RUN, FRAME)]).to_dict("records")
    assert (row["step_time_s"], row["peak_in_flight"]) == (33.0, 4.0)
    assert math.isnan(row["peak_bytes"])
    assert math.isnan(row["mfu"])
    assert row["fits"] is None


def test_the_text_table_marks_what_does_not_fit():
    """One line per run below the header."""
    lines = compare.table_text(RUNS).splitlines()
    headings = ["step time", "relative", "bubble fraction", "bubble overhead", "span bubble fraction", "in flight"]
    assert " ".join(lines[0].split()) == " ".join([*headings, "peak memory", "tokens/s/GPU", "MFU"])
    assert [line.split()[0] for line in lines[1:]] == ["plain", "faster", "too"]
    assert lines[3].endswith("does not fit: 91.2 GB of 80.0 GB")
    assert "fit" not in lines[1]


def test_columns_of_which_nothing_is_known_are_left_out():
    """Abstract runs are compared by time and bubble."""
    header, row = compare.table_text([("a", ABSTRACT_RUN, FRAME)]).splitlines()
    assert "MFU" not in header
    assert "memory" not in header
    assert row.split() == ["a", "33", "1.000", "27.3", "%", "37.5", "%", "27.3", "%", "4"]


def test_nothing_to_compare_is_an_error():
    """In the table and in the figure."""
    for make in (compare.table, compare.figure):
        with pytest.raises(PipesimError, match="at least one run"):
            make([])


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


def test_the_figure_is_drawn_the_same_every_time():
    """One plan or three, to the byte."""
    for runs in (RUNS[:1], RUNS):
        assert encode(compare.figure(runs), "png", 60) == encode(compare.figure(runs), "png", 60)
