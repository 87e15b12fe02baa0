"""Predicted against measured on logarithmic axes, a panel per quantity, and the errors of each source side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pipesim.report.colours import GRID, INK, MUTED
from pipesim.report.figures import new_figure

PALETTE = ("#3f7fbf", "#e8923a", "#1f7a4d", "#b0739c", "#cc5a43", "#4fa8a8", "#8c6d53", "#55585e")
MARKERS = "osD^vPX*"
COLUMNS = 3
"""Panels side by side."""
WIDE = 40.0
"""Axes that span more than this are labelled at powers of ten only."""
BAND = 0.1
"""Half width of the shaded band around equality."""

_UNITS = {
    "step_time_s": (1.0, "step time (s)"),
    "tokens_per_s_per_gpu": (1.0, "tokens per second and GPU"),
    "hardware_flops_per_gpu": (1e12, "TFLOP/s per GPU"),
    "samples_per_s": (1.0, "samples per second"),
    "bytes": (1e9, "memory (GB)"),
}


class Point(NamedTuple):
    """One row: which source, the two values in SI units, what they are, and the error (0.1: 10 % too slow or large)."""

    source: str
    measured: float
    predicted: float
    quantity: str
    error: float


def figure(points: Sequence[Point]) -> Figure:
    """One panel per quantity with at least three points, the identity and +-10 % in each; the last has all errors."""
    panels = {name: [p for p in points if panel(p.quantity) == name] for name in _UNITS}
    shown = {name: members for name, members in panels.items() if len(members) > 2}
    columns = min(len(shown) + 1, COLUMNS)
    rows = -(-(len(shown) + 1) // columns)
    drawn = new_figure(4.4 * columns, 4.4 * rows)
    axes = list(drawn.subplots(rows, columns, squeeze=False).flat)
    for ax, (name, members) in zip(axes, shown.items(), strict=False):
        _panel(ax, members, *_UNITS[name])
    _errors(axes[len(shown)], points)
    for ax in axes[len(shown) + 1 :]:
        ax.set_axis_off()
    return drawn


def panel(quantity: str) -> str:
    """The panel that a quantity belongs to."""
    return "bytes" if quantity.endswith("_bytes") else quantity


def _panel(ax: Axes, points: Sequence[Point], unit: float, title: str) -> None:
    values = np.array([(p.measured, p.predicted) for p in points]) / unit
    ends = np.array([values.min() / 1.3, values.max() * 1.3])
    ax.fill_between(ends, ends * (1 - BAND), ends * (1 + BAND), color=GRID, alpha=0.7, linewidth=0, label="within 10 %")
    ax.plot(ends, ends, color=MUTED, linewidth=0.8)
    for index, source in enumerate(dict.fromkeys(p.source for p in points)):
        mine = values[[p.source == source for p in points]]
        ax.plot(*mine.T, linestyle="none", markersize=4.5, alpha=0.8, markeredgewidth=0, label=source, **_style(index))
    _axes(ax, (float(ends[0]), float(ends[1])))
    ax.set_title(title, loc="left", fontsize=9.5, color=INK)
    ax.legend(loc="upper left", frameon=False, fontsize=6.5, labelcolor=INK, handletextpad=0.4, labelspacing=0.3)


def _errors(ax: Axes, points: Sequence[Point]) -> None:
    """One line of dots per source and kind of quantity, a bar at their mean."""
    groups: dict[str, list[float]] = {}
    for point in points:
        suffix = ", memory" if panel(point.quantity) == "bytes" else ""
        groups.setdefault(point.source + suffix, []).append(100 * point.error)
    ax.axvspan(-100 * BAND, 100 * BAND, color=GRID, alpha=0.7, linewidth=0)
    ax.axvline(0, color=MUTED, linewidth=0.8)
    for line, errors in enumerate(groups.values()):
        ax.plot(errors, [line] * len(errors), "o", color=PALETTE[0], markersize=4, alpha=0.45, markeredgewidth=0)
        ax.plot([float(np.mean(errors))], [line], "|", color=INK, markersize=9, markeredgewidth=1.6)
    ax.set_yticks(range(len(groups)), list(groups))
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.set_title("errors, a bar at their mean", loc="left", fontsize=9.5, color=INK)
    ax.set_xlabel("error (%); negative: too fast, or too small", fontsize=8, color=INK)
    _plain_frame(ax)


def _style(index: int) -> dict[str, Any]:
    """Colour and marker of a panel's source; no pair is repeated before 64 sources."""
    colour, lap = index % len(PALETTE), index // len(PALETTE)
    return {"color": PALETTE[colour], "marker": MARKERS[(index + lap) % len(MARKERS)]}


def _axes(ax: Axes, ends: tuple[float, float]) -> None:
    """Equal logarithmic axes with plain numbers."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(*ends)
    ax.set_ylim(*ends)
    ax.set_aspect("equal")
    subs = (1.0,) if ends[1] / ends[0] > WIDE else (1.0, 2.0, 3.0, 5.0, 7.0)
    for axis, label in ((ax.xaxis, "measured"), (ax.yaxis, "predicted")):
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(NullFormatter())
        axis.set_label_text(label, fontsize=8.5, color=INK)
    _plain_frame(ax)


def _plain_frame(ax: Axes) -> None:
    ax.tick_params(labelsize=7.5, which="both", colors=MUTED)
    ax.grid(True, color=GRID, linewidth=0.4)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
