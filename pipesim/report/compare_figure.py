"""The picture of a comparison: a row per plan, its Gantt chart at the left, its bars at the right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipesim.report import legend as legends
from pipesim.report import numbers
from pipesim.report.bars import Bars, Note
from pipesim.report.colours import ALARM, GRID, INK, MUTED
from pipesim.report.compare import Run, verdict
from pipesim.report.figures import new_figure
from pipesim.report.gantt import gantt, show_time
from pipesim.report.lanes import COMPUTE, checked
from pipesim.report.text import time_unit

WIDTH = 12.0
"""Inches."""

LANE, LOWEST, TALLEST = 0.2, 0.8, 2.4
"""Inches of one lane, and of one plan's chart at least and at most."""

HEADROOM = 0.3
"""Inches above each chart for its name."""

BAR, BAR_COLOUR = 0.34, "#7b8794"
"""Height of a bar as a share of its row, and its colour."""

OVER = {"facecolor": "white", "edgecolor": ALARM, "hatch": "/////"}
"""How a bar beyond its limit looks."""


def draw(runs: Sequence[Run], title: str | None) -> Figure:
    """The figure of several runs, best in landscape."""
    heights = [float(np.clip(run.frame["rank"].nunique() * LANE, LOWEST, TALLEST)) for run in runs]
    figure = new_figure(WIDTH, sum(heights) + HEADROOM * len(runs) + 1.0)
    in_bytes, in_flight = (any(peak(run) is not None for run in runs) for peak in (_peak, _in_flight))
    ratios = [8.5, 1.5, 1.5] if in_bytes or in_flight else [8.5, 1.5]
    axes = figure.subplots(len(runs), len(ratios), squeeze=False, width_ratios=ratios, height_ratios=heights)
    charts, *beside = (list(column) for column in axes.T)
    _charts(charts, runs)
    bubbles = [run.metrics.get("bubble_fraction") for run in runs]
    _bars(beside[0], bubbles, "bubble fraction", numbers.share, [None] * len(runs))
    if in_bytes:
        _memory_bars(beside[1], runs)
    elif in_flight:
        peaks = [_in_flight(run) for run in runs]
        _bars(beside[1], peaks, "peak in flight", lambda value: f"{value:g}", [None] * len(runs))
    _legend(figure, runs)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return figure


def _charts(axes: Sequence[Axes], runs: Sequence[Run]) -> None:
    """Gantt charts on one time axis; only the last one is labelled with it."""
    last = max(float(run.frame["end_s"].max() - run.frame["start_s"].min()) for run in runs)
    unit = time_unit(runs[0].metrics) or numbers.time_unit(last)
    for ax, run in zip(axes, runs, strict=True):
        start = float(run.frame["start_s"].min())
        gantt(run.frame, ax, lanes=("compute",), legend=False, time_unit=unit)
        ax.set_xlim(start, start + last)
        _name(ax, run, runs[0], unit)
        ax.set_ylabel("rank", fontsize=8, color=INK)
        ax.spines["bottom"].set_visible(ax is axes[-1])
        if ax is not axes[-1]:
            ax.set_xlabel("")
            ax.tick_params(axis="x", length=0, labelbottom=False)
    show_time(axes[-1], unit)
    Note(axes[-1], [child for ax in axes for child in ax.get_children() if isinstance(child, Bars)], y=-22)


def _name(ax: Axes, run: Run, first: Run, unit: str) -> None:
    """The plan's name, its step time, and whether it fits, above its chart."""
    step, reference = run.metrics.get("step_time_s"), first.metrics.get("step_time_s")
    parts = [] if step is None else [numbers.duration(step, unit)]
    if step and reference and run is not first:
        parts.append(f"{step / reference:.3f} × the first")
    ax.set_title(run.label, loc="left", fontsize=9.5, fontweight="bold", color=INK, pad=4)
    remark = verdict(run.metrics)
    ax.set_title(", ".join(parts), loc="right", fontsize=8.5, fontweight="normal", color=INK, pad=4)
    if remark:
        ax.set_title(remark, loc="center", fontsize=8.5, fontweight="bold", color=ALARM, pad=4)


def _bars(
    axes: Sequence[Axes],
    values: Sequence[float | None],
    title: str,
    form: Callable[[float], str],
    limits: Sequence[float | None],
) -> None:
    """One horizontal bar per plan, all on one scale, its value in a column behind; a dashed line at each limit."""
    top = max((value for value in [*values, *limits] if value), default=1.0)
    for ax, value, limit in zip(axes, values, limits, strict=True):
        over = value is not None and limit is not None and value > limit
        if value is not None:
            style: dict[str, Any] = OVER if over else {"color": BAR_COLOUR}
            ax.barh(0.5, value, height=BAR, linewidth=0.8, zorder=2, **style)
            weight = "bold" if over else "normal"
            ax.text(top * 1.08, 0.5, form(value), fontsize=8, va="center", color=ALARM if over else INK, weight=weight)
        if limit is not None:
            ax.plot([limit] * 2, [0.2, 0.8], color=ALARM, linewidth=1.2, linestyle=(0, (4, 2)), zorder=3)
        ax.set_xlim(0.0, top * 1.75)
        ax.set_ylim(0.0, 1.0)
        ax.grid(False)
        ax.set_xticks([])
        ax.set_yticks([])
        for side in ("top", "right", "bottom"):
            ax.spines[side].set_visible(False)
        ax.spines["left"].set_color(GRID)
    axes[0].set_title(title, loc="left", fontsize=8.5, fontweight="normal", color=MUTED, pad=4)


def _memory_bars(axes: Sequence[Axes], runs: Sequence[Run]) -> None:
    plain = time_unit(runs[0].metrics)
    capacities = [(run.metrics.get("memory") or {}).get("capacity_bytes") for run in runs]
    title = "peak memory, capacity" if any(capacities) else "peak memory"
    _bars(axes, [_peak(run) for run in runs], title, lambda value: numbers.size(value, plain), capacities)


def _peak(run: Run) -> float | None:
    peak: float | None = (run.metrics.get("memory") or {}).get("peak_bytes")
    return peak


def _in_flight(run: Run) -> float | None:
    """Largest number of micro-batches in flight on any rank: the memory of a plan without bytes."""
    peaks = [rank.get("peak_in_flight") for rank in run.metrics.get("ranks") or []]
    return max((peak for peak in peaks if peak is not None), default=None)


def _legend(figure: Figure, runs: Sequence[Run]) -> None:
    """One legend for all charts, below them."""
    frames = [checked(run.frame) for run in runs]
    found = legends.kinds(pd.concat(frames, ignore_index=True), [COMPUTE])
    marks = {name: (handle, name) for frame in frames for handle, name in legends.marks(frame, [COMPUTE])}
    found += [*marks.values(), legends.bubble()]
    figure.legend(
        [handle for handle, _ in found],
        [name for _, name in found],
        loc="outside lower left",
        ncols=legends.columns(found, 72 * WIDTH),
        frameon=False,
        fontsize=8,
        handlelength=1.1,
        labelcolor=INK,
        handler_map=legends.SIDE_BY_SIDE,
    )
