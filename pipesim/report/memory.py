"""Memory over time: what fills the fullest rank, what the others hold, and the capacity above them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from pipesim.report import legend as legends
from pipesim.report import numbers
from pipesim.report.colours import ALARM, CATEGORIES, GRID, INK, MUTED, OTHER
from pipesim.report.curves import Curves, curves_of, fullest
from pipesim.report.figures import SHOWN, new_figure

SIZE = (10.0, 3.2)
"""Inches."""

FEW = 6
"""With more other ranks than this, only the emptiest is drawn: lines upon lines say nothing."""

MARGIN = 1.16
"""Height of the plot over what it shows, for the marks on top."""


def memory_plot(
    memory: pd.DataFrame,
    ax: Axes | None = None,
    *,
    capacity_bytes: float | None = None,
    ranks: Sequence[int] | None = None,
    time_unit: str | None = None,
    memory_unit: str | None = None,
    title: str | None = None,
    end_s: float | None = None,
) -> Axes:
    """Stack the categories of the fullest rank, draw the other ranks' totals as lines, mark peak and capacity.

    Of many other ranks only the emptiest is drawn. A figure of its own has the peaks of all ranks beside it.

    Args:
        memory: rank, time_s, category, bytes; a value holds from its time on.
        ranks: those to draw; all by default. One rank alone is just its stack.
        end_s: how far the last values hold; the last change by default.

    Raises:
        PipesimError: a column is missing, or a rank or unit is unknown.
    """
    curves = curves_of(memory, ranks)
    peak = fullest(curves)
    first = min(float(own.time_s[0]) for own in curves)
    last = max(float(own.time_s[-1]) for own in curves) if end_s is None else end_s
    beside: Axes | None = None
    if ax is None:
        ax, beside = _axes(len(curves))
        _time_axis(ax, first, last, time_unit)
    _stack(ax, peak, last)
    others = shown_beside(peak, curves)
    _lines(ax, others, last)
    top = max(peak.peak[1], capacity_bytes or 0.0)
    unit = memory_unit or numbers.byte_unit(top)
    _bytes_axis(ax, top, unit)
    if capacity_bytes is not None:
        _capacity(ax, capacity_bytes, unit)
    _mark_peak(ax, peak, capacity_bytes, unit, (first, last))
    _legend(ax, peak)
    if beside is not None:
        _peaks(beside, curves, capacity_bytes)
    if title:
        ax.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold", pad=20)
    return ax


def _axes(ranks: int) -> tuple[Axes, Axes | None]:
    """Axes in a new figure, and beside them, on the same scale, axes for the peaks of several ranks."""
    figure = new_figure(*SIZE)
    if ranks == 1:
        return figure.add_subplot(**SHOWN), None
    main, beside = figure.subplots(1, 2, sharey=True, width_ratios=[5, 1], subplot_kw=SHOWN)
    return main, beside


def _peaks(ax: Axes, curves: Sequence[Curves], capacity_bytes: float | None) -> None:
    """Every rank's peak as a bar."""
    peaks = np.array([own.peak[1] for own in curves])
    over = np.zeros(len(peaks), bool) if capacity_bytes is None else peaks > capacity_bytes
    ax.bar(range(len(peaks)), peaks, width=0.8, color=np.where(over, ALARM, MUTED), zorder=2)
    if capacity_bytes is not None:
        ax.axhline(capacity_bytes, color=ALARM, linewidth=1.2, linestyle=(0, (5, 2)), zorder=4)
    step = -(-len(curves) // 8)
    ax.set_xticks(range(0, len(curves), step), [str(own.rank) for own in curves[::step]])
    ax.set_xlim(-0.7, len(curves) - 0.3)
    ax.set_xlabel("rank", fontsize=9, color=INK)
    ax.set_title("peak", loc="left", fontsize=8, fontweight="normal", color=INK, pad=5)
    _plain(ax)


def _steps(time: NDArray[np.float64], values: NDArray[np.float64], end_s: float) -> NDArray[np.float64]:
    """Corners of a step curve that holds its last value until ``end_s``, shape (2t, 2)."""
    times = np.append(np.repeat(time, 2)[1:], max(end_s, float(time[-1])))
    return np.stack([times, np.repeat(values, 2)], axis=1)


def _stack(ax: Axes, own: Curves, end_s: float) -> None:
    base = np.zeros(2 * len(own.time_s))
    for name, amount in zip(own.categories, own.bytes, strict=True):
        corners = _steps(own.time_s, amount, end_s)
        colour = CATEGORIES.get(name, OTHER.colour)
        ax.fill_between(corners[:, 0], base, base + corners[:, 1], color=colour, linewidth=0, zorder=2)
        base = base + corners[:, 1]


def shown_beside(peak: Curves, curves: Sequence[Curves]) -> list[Curves]:
    """The ranks that are drawn as lines: all others where they are few, else the one with the lowest peak."""
    others = [own for own in curves if own is not peak]
    return others if len(others) <= FEW else [min(others, key=lambda own: own.peak[1])]


def _lines(ax: Axes, others: Sequence[Curves], end_s: float) -> None:
    """Totals of other ranks as thin lines, each named where it is highest, those of one height together."""
    lines = [_steps(own.time_s, own.total, end_s) for own in others]
    ax.add_collection(LineCollection(lines, colors=INK, linewidths=0.8, alpha=0.6, zorder=3), autolim=False)
    named: dict[float, list[Curves]] = {}
    for own in others:
        named.setdefault(own.peak[1], []).append(own)
    for equal in named.values():
        peak, ranks = min(own.peak for own in equal), [str(own.rank) for own in equal]
        name = f"rank{'s' if len(ranks) > 1 else ''} {', '.join(ranks)}"
        place: dict[str, Any] = {"xytext": (3, -1.5), "textcoords": "offset points", "fontsize": 6.5}
        ax.annotate(name, peak, va="top", color=INK, zorder=5, **place)


def _time_axis(ax: Axes, first: float, last: float, unit: str | None) -> None:
    unit = unit or numbers.time_unit(last - first)
    scale = numbers.time_scale(unit)
    ax.set_xlim(first, last if last > first else first + 1.0)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * scale:.6g}"))
    ax.set_xlabel(numbers.time_axis_label(unit), fontsize=9, color=INK)


def _bytes_axis(ax: Axes, top: float, unit: str) -> None:
    scale = numbers.byte_scale(unit)
    ax.set_ylim(0.0, top * MARGIN if top > 0 else 1.0)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    steps = ax.yaxis.get_major_locator().tick_values(0.0, top / scale)
    ax.set_yticks([step * scale for step in steps if step * scale <= top * MARGIN])
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / scale:.6g}"))
    ax.set_ylabel(numbers.memory_axis_label(unit), fontsize=9, color=INK)
    _plain(ax)


def _plain(ax: Axes) -> None:
    """No box around, faint lines across."""
    ax.tick_params(axis="both", labelsize=8, color=MUTED, labelcolor=INK)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", color=GRID, linewidth=0.6)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(MUTED)


def _capacity(ax: Axes, capacity_bytes: float, unit: str) -> None:
    ax.axhline(capacity_bytes, color=ALARM, linewidth=1.2, linestyle=(0, (5, 2)), zorder=4)
    ax.annotate(
        f"capacity {numbers.size(capacity_bytes, unit)}",
        (1.0, capacity_bytes),
        xycoords=ax.get_yaxis_transform(),
        xytext=(-2, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=7.5,
        color=ALARM,
        zorder=5,
    )


def _mark_peak(ax: Axes, own: Curves, capacity: float | None, unit: str, span: tuple[float, float]) -> None:
    """A dot at the first moment of the peak, and what it is."""
    at, amount = own.peak
    text = f"rank {own.rank}: {numbers.size(amount, unit)}"
    if capacity:
        text += f", {100 * amount / capacity:.0f} % of capacity"
    late = at > span[0] + 0.6 * (span[1] - span[0])
    crowded = capacity is not None and amount <= capacity < amount * MARGIN
    ax.plot([at], [amount], marker="o", markersize=4, color=INK, markeredgecolor="white", zorder=6, clip_on=False)
    ax.annotate(
        text,
        (at, amount),
        xytext=(-6 if late else 6, -5 if crowded else 3),
        textcoords="offset points",
        ha="right" if late else "left",
        va="top" if crowded else "bottom",
        fontsize=8,
        fontweight="bold",
        color=ALARM if capacity and amount > capacity else INK,
        bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1.0},
        zorder=6,
    )


def _legend(ax: Axes, own: Curves) -> None:
    """Categories in stacking order, above the axes."""
    handles = [Patch(facecolor=CATEGORIES.get(name, OTHER.colour)) for name in own.categories]
    legends.add(ax, list(zip(handles, own.categories, strict=True)), len(handles))
