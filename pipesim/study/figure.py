"""The figure of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipesim.study.compare import Plan


def stacked(plans: Sequence[Plan]) -> Figure:
    """Gantt charts above each other on one time axis; plans without a result must be left out before."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = [_height(plan) for plan in plans]
    figure = Figure(figsize=(11, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(plans), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for ax, plan in zip(axes, plans, strict=True):
        assert plan.result is not None
        plan.result.gantt(ax)
        ax.set_title(_title(plan), loc="left", fontsize="medium")
    figure.align_ylabels(list(axes))
    return figure


def _height(plan: Plan) -> float:
    """Inches: a lane needs a few millimetres, a chart a title."""
    assert plan.result is not None
    return 1.0 + min(0.22 * len(plan.result.metrics["ranks"]), 6.0)


def _title(plan: Plan) -> str:
    row = plan.row(None)
    fits = "" if row["fits"] is not False else ", does not fit in memory"
    return f"{plan.label}: bubble fraction {row['bubble_fraction']:.1%}{fits}"
