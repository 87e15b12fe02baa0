"""The memory plot shows the fullest rank, whether it fits, and how the others compare."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from timeline_frames import memory_of, run

from pipesim.errors import PipesimError
from pipesim.report.curves import curves_of, fullest
from pipesim.report.memory import memory_plot, shown_beside

FRAME = run("1f1b", 4, 8)
MEMORY = memory_of(FRAME, activation_bytes=10e9)


def rows(*entries):
    return pd.DataFrame(entries, columns=["rank", "time_s", "category", "bytes"])


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_values_hold_until_the_next_change():
    """Two categories that change at different times, on the union of those times."""
    memory = rows(
        (0, 0.0, "weights", 5), (0, 1.0, "activations", 2), (0, 3.0, "activations", 0), (0, 2.0, "weights", 6)
    )
    (own,) = curves_of(memory)
    assert own.time_s.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert own.categories == ["weights", "activations"]
    assert own.bytes.tolist() == [[5, 5, 6, 6], [0, 2, 2, 0]]
    assert own.peak == (2.0, 8.0)


def test_categories_that_are_always_empty_are_left_out():
    """Abstract runs know activations only; a rank without anything still has a curve."""
    memory = rows((0, 0.0, "weights", 0), (0, 0.0, "activations", 1), (1, 0.0, "weights", 0))
    assert [own.categories for own in curves_of(memory)] == [["activations"], ["activations"]]
    assert [own.total.tolist() for own in curves_of(memory)] == [[1], [0]]


def test_ranks_with_one_peak_share_a_name():
    """Symmetric schedules have them; two names on one spot could not be read."""
    memory = rows((0, 0.0, "activations", 3), (1, 0.0, "activations", 2), (2, 0.0, "activations", 2))
    assert "ranks 1, 2" in texts(memory_plot(memory))


def test_of_several_values_at_one_time_the_last_counts():
    """A release and an allocation at one instant do not add up."""
    memory = rows((0, 0.0, "activations", 1), (0, 1.0, "activations", 9), (0, 1.0, "activations", 3))
    (own,) = curves_of(memory)
    assert own.total.tolist() == [1, 3]


def test_the_first_rank_of_1f1b_is_the_fullest():
    """It holds P micro-batches: 30 GB + 4 x 10 GB, first when its fourth forward starts."""
    peak = fullest(curves_of(MEMORY))
    assert peak.rank == 0
    assert peak.peak == (6e-3, 70e9)


def test_the_peak_is_marked_with_its_share_of_the_capacity():
    """Rank, bytes, per cent; and the capacity is named."""
    ax = memory_plot(MEMORY, capacity_bytes=80e9)
    assert "rank 0: 70.0 GB, 88 % of capacity" in texts(ax)
    assert "capacity 80.0 GB" in texts(ax)
    peak = ax.lines[-1]
    assert (peak.get_xdata()[0], peak.get_ydata()[0]) == (6e-3, 70e9)


def test_without_a_capacity_there_is_no_line():
    """Abstract runs have none."""
    ax = memory_plot(MEMORY)
    assert "rank 0: 70.0 GB" in texts(ax)
    assert not any("capacity" in text for text in texts(ax))


def test_few_other_ranks_are_lines_and_of_many_the_emptiest_is():
    """Three others are all drawn; of fifteen only the last rank, which holds one micro-batch."""
    curves = curves_of(MEMORY)
    assert [own.rank for own in shown_beside(curves[0], curves)] == [1, 2, 3]
    many = curves_of(memory_of(run("1f1b", 16, 32)))
    assert [own.rank for own in shown_beside(many[0], many)] == [15]


def test_the_stack_adds_up_to_the_total():
    """The upper edge of the topmost area is the rank's total at every time."""
    ax = memory_plot(MEMORY, ranks=[1])
    top = max(area.get_paths()[0].get_extents().y1 for area in ax.collections if len(area.get_paths()))
    assert top == curves_of(MEMORY, [1])[0].peak[1] == 60e9


def test_a_figure_of_its_own_shows_every_ranks_peak_beside():
    """Bars of 70, 60, 50 and 40 GB, the ones beyond the capacity in the colour of alarm."""
    ax = memory_plot(MEMORY, capacity_bytes=65e9)
    bars = ax.figure.axes[1].patches
    assert [bar.get_height() for bar in bars] == [70e9, 60e9, 50e9, 40e9]
    assert bars[0].get_facecolor() != bars[1].get_facecolor() == bars[2].get_facecolor()


def test_one_rank_needs_nothing_beside():
    """One axes, no lines of others."""
    ax = memory_plot(MEMORY, ranks=[2])
    assert len(ax.figure.axes) == 1


def test_the_capacity_is_in_sight():
    """The axis reaches beyond both peak and capacity."""
    for capacity in (20e9, 200e9):
        assert memory_plot(MEMORY, capacity_bytes=capacity).get_ylim()[1] > max(capacity, 70e9)


def test_units_are_chosen_or_asked_for():
    """GB by size, GiB on request, none for abstract memory."""
    assert memory_plot(MEMORY).get_ylabel() == "memory (GB)"
    assert memory_plot(MEMORY, memory_unit="GiB").get_ylabel() == "memory (GiB)"
    assert memory_plot(MEMORY, memory_unit="unit", time_unit="unit").get_ylabel() == "memory"


def test_unknown_ranks_and_missing_columns_are_errors():
    """The message says what there is."""
    with pytest.raises(PipesimError, match="no memory is known of rank 7; known ranks: 0 to 3"):
        memory_plot(MEMORY, ranks=[0, 7])
    with pytest.raises(PipesimError, match="missing: category"):
        memory_plot(MEMORY.drop(columns="category"))
    with pytest.raises(PipesimError, match="known ranks: none"):
        memory_plot(MEMORY.iloc[:0])


def test_ticks_lie_at_round_numbers_of_the_unit():
    """20 GB apart here, not 20 GiB or 18.6."""
    ticks = memory_plot(MEMORY, capacity_bytes=80e9).get_yticks()
    np.testing.assert_allclose(ticks, [0, 20e9, 40e9, 60e9, 80e9])
