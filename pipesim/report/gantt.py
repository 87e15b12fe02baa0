"""The Gantt chart: one lane per rank, coloured by kind, numbered by micro-batch; what shows through is bubble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from pipesim.report import legend as legends
from pipesim.report import numbers
from pipesim.report.bars import Bars, Note
from pipesim.report.boxes import boxes_of
from pipesim.report.colours import IDLE, INK, MUTED, QUIET
from pipesim.report.critical import Steps, draw_path, path_steps
from pipesim.report.figures import SHOWN, new_figure, root_figure
from pipesim.report.lanes import COMPUTE, Lanes, checked, choose_resources, lay_out

WIDTH = 10.0
"""Inches."""

LANE, TALLEST = 0.34, 6.4
"""Inches of one compute lane where there is room, and of all lanes together at most."""

MEMORY = 1.7
"""Inches of the memory plot underneath."""


def gantt(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    lanes: Sequence[str] | Literal["all"] | None = None,
    memory: pd.DataFrame | None = None,
    capacity_bytes: float | None = None,
    critical_path: Sequence[int] | Sequence[Steps] | None = None,
    title: str | None = None,
    time_unit: str | None = None,
    memory_unit: str | None = None,
    legend: bool = True,
) -> Axes:
    """Draw a timeline; returns the axes (x in seconds, y in lanes downwards), in a new figure unless given.

    Ops too narrow to be drawn one by one appear as the share of each pixel's time that they hold. Overlapped
    pairs share their lane's height. Later chunks are lighter; every route but the first carries a stripe.

    Args:
        frame: one row per op: rank, resource, kind, stage, microbatch, start_s, end_s; route and pair if any.
        lanes: resources to draw per rank, or ``"all"``; the compute lane is the high one. By default it is drawn with
            the second engine and the copies to the host, where there are any.
        memory: rank, time_s, category, bytes; drawn underneath on the same time axis.
        capacity_bytes: a line in the memory plot.
        critical_path: row positions of ``frame``, or (rank, start_s, end_s) triples, in order of time.
        time_unit: s, ms, us, ns, ps, or ``unit`` for abstract costs; fitting the step by default.
        memory_unit: B, kB, MB, GB, TB, or ``unit``; fitting the peak by default.
        legend: what the colours mean, and a note where ops are too fine to be drawn one by one.

    Raises:
        PipesimError: a column, a lane or a unit is unknown, or the timeline is empty.
    """
    ops = checked(frame)
    resources = choose_resources(ops, lanes)
    layout = lay_out(np.unique(ops.loc[ops["rank"] >= 0, "rank"].to_numpy(np.int64)), resources)
    span = (float(ops["start_s"].min()), float(ops["end_s"].max()))
    below: Axes | None = None
    if ax is None:
        ax, below = _axes(layout, memory is not None)
    elif memory is not None:
        below = _attach(ax)
    _draw_lanes(ax, layout, span)
    bars = Bars(ax, boxes_of(ops, layout))
    if critical_path is not None:
        draw_path(ax, layout, path_steps(frame, critical_path))
    _dress(ax, layout, span, time_unit)
    rows = 0
    if legend:
        Note(ax, [bars], y=4)
        found = legends.entries(ops, resources, critical_path is not None)
        rows = legends.add(ax, found, _columns(ax, found))
    if title:
        ax.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold", pad=7 + 13 * rows)
    if below is not None and memory is not None:
        _draw_memory(ax, below, memory, capacity_bytes, memory_unit)
    return ax


def _axes(layout: Lanes, with_memory: bool) -> tuple[Axes, Axes | None]:
    """Axes in a new figure whose height follows the number of lanes."""
    chart = min(max(layout.height * LANE, 0.8), TALLEST)
    if not with_memory:
        return new_figure(WIDTH, chart + 1.0).add_subplot(**SHOWN), None
    figure = new_figure(WIDTH, chart + MEMORY + 1.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[chart, MEMORY], subplot_kw=SHOWN)
    return upper, lower


def _attach(ax: Axes) -> Axes:
    """Axes right below ``ax`` that share its time axis, taking the lower part of its place."""
    figure, place = ax.figure, ax.get_subplotspec()
    if place is None:
        x, y, width, height = ax.get_position().bounds
        ax.set_position((x, y + 0.4 * height, width, 0.6 * height))
        return figure.add_axes((x, y, width, 0.27 * height), sharex=ax)
    grid = place.subgridspec(2, 1, height_ratios=[0.65, 0.35])
    ax.set_subplotspec(grid[0])
    return figure.add_subplot(grid[1], sharex=ax)


def _draw_lanes(ax: Axes, layout: Lanes, span: tuple[float, float]) -> None:
    """The background of every lane, from the step's start to its end."""
    for column, name in enumerate(layout.resources):
        corners = [
            [(span[0], bottom), (span[0], top), (span[1], top), (span[1], bottom)]
            for top, bottom in zip(layout.top[:, column], layout.bottom[:, column], strict=True)
        ]
        colour = IDLE if name == COMPUTE else QUIET
        ax.add_collection(PolyCollection(corners, facecolors=colour, linewidths=0, zorder=1), autolim=False)


def _dress(ax: Axes, layout: Lanes, span: tuple[float, float], time_unit: str | None) -> None:
    """Limits, ticks and labels."""
    unit = time_unit or numbers.time_unit(span[1] - span[0])
    show_time(ax, unit)
    ax.grid(False)
    ax.set_xlim(span[0], span[1] if span[1] > span[0] else span[0] + 1.0)
    ax.set_ylim(layout.height, 0.0)
    ax.set_ylabel("rank", fontsize=9, color=INK)
    _rank_ticks(ax, layout)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(MUTED)


def show_time(ax: Axes, unit: str) -> None:
    """Label an x axis in seconds with another unit."""
    scale = numbers.time_scale(unit)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * scale:.6g}"))
    ax.set_xlabel(numbers.time_axis_label(unit), fontsize=9, color=INK)
    ax.tick_params(axis="x", labelsize=8, color=MUTED, labelcolor=INK)


def _rank_ticks(ax: Axes, layout: Lanes) -> None:
    """As many rank numbers as there is room for, and names of thin lanes when there is room for all."""
    room = height_inches(ax) * 72
    compute = layout.resources.index(COMPUTE) if COMPUTE in layout.resources else 0
    middle = (layout.top[:, compute] + layout.bottom[:, compute]) / 2
    step = rank_step(len(layout.ranks), room)
    ax.yaxis.set_major_locator(FixedLocator(middle[::step].tolist()))
    ax.set_yticks(middle[::step].tolist(), [str(rank) for rank in layout.ranks[::step]])
    ax.tick_params(axis="y", length=0, labelsize=8, labelcolor=INK)
    others = [i for i in range(len(layout.resources)) if i != compute]
    thin = room / layout.height * 0.42
    if others and thin >= 6.0:
        centre = (layout.top[:, others] + layout.bottom[:, others]) / 2
        names = [layout.resources[i] for i in others] * len(layout.ranks)
        ax.set_yticks(centre.ravel().tolist(), names, minor=True)
        ax.tick_params(axis="y", which="minor", length=0, labelsize=6, labelcolor=MUTED)


def rank_step(ranks: int, room: float) -> int:
    """Every how many ranks a number fits into ``room`` points: 1, 2, 4, 8, ..."""
    step = 1
    while ranks / step * 10.0 > room and step < ranks:
        step *= 2
    return step


def height_inches(ax: Axes) -> float:
    """Height of the axes; before the first layout, an estimate."""
    return float(ax.get_position().height * root_figure(ax).get_figheight())


def _columns(ax: Axes, found: Sequence[legends.Entry]) -> int:
    """How many legend entries to put side by side; they are set closer than usual, and may reach beyond the axes."""
    return legends.columns(found, 1.1 * 72 * ax.get_position().width * root_figure(ax).get_figwidth())


def _draw_memory(ax: Axes, below: Axes, memory: pd.DataFrame, capacity_bytes: float | None, unit: str | None) -> None:
    from pipesim.report.memory import memory_plot

    memory_plot(memory, below, capacity_bytes=capacity_bytes, memory_unit=unit, end_s=ax.get_xlim()[1])
    show = ax.xaxis.get_major_formatter()
    below.xaxis.set_major_formatter(show)
    below.set_xlabel(ax.get_xlabel(), fontsize=9, color=INK)
    ax.set_xlabel("")
    ax.tick_params(axis="x", labelbottom=False)
