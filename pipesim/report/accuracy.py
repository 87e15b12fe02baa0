"""Predicted against measured, on logarithmic axes: a panel for times and rates, one for bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipesim.report.colours import GRID, INK, MUTED
from pipesim.report.figures import new_figure

PALETTE = ("#3f7fbf", "#e8923a", "#1f7a4d", "#b0739c", "#cc5a43", "#4fa8a8", "#8c6d53", "#55585e")
MARKERS = "osD^vPX*"
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
    """One row: which source, the two values in SI units, and what they are."""

    source: str
    measured: float
    predicted: float
    quantity: str


def figure(points: Sequence[Point]) -> Figure:
    """One panel per quantity that has at least three points; the identity and +-10 % in each."""
    panels = {name: [p for p in points if panel(p.quantity) == name] for name in _UNITS}
    shown = {name: members for name, members in panels.items() if len(members) > 2}
    drawn = new_figure(4.1 * max(len(shown), 1), 4.6)
    styles = {source: index for index, source in enumerate(dict.fromkeys(p.source for p in points))}
    axes = drawn.subplots(1, max(len(shown), 1), squeeze=False)[0]
    for ax, (name, members) in zip(axes, shown.items(), strict=False):
        _panel(ax, members, styles, *_UNITS[name])
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    drawn.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=min(len(handles), 6) or 1,
        frameon=False, fontsize=8, labelcolor=INK,
    )  # fmt: skip
    return drawn


def panel(quantity: str) -> str:
    """The panel that a quantity belongs to."""
    return "bytes" if quantity.endswith("_bytes") else quantity


def _panel(ax: Axes, points: Sequence[Point], styles: dict[str, int], unit: float, title: str) -> None:
    values = np.array([(p.measured, p.predicted) for p in points]) / unit
    ends = np.array([values.min() / 1.3, values.max() * 1.3])
    ax.fill_between(ends, ends * (1 - BAND), ends * (1 + BAND), color=GRID, alpha=0.7, linewidth=0, label="within 10 %")
    ax.plot(ends, ends, color=MUTED, linewidth=0.8)
    for source, index in styles.items():
        mine = values[[p.source == source for p in points]]
        if len(mine):
            style: dict[str, Any] = {"color": PALETTE[index % len(PALETTE)], "marker": MARKERS[index % len(MARKERS)]}
            ax.plot(*mine.T, linestyle="none", markersize=4.5, alpha=0.8, markeredgewidth=0, label=source, **style)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(*ends)
    ax.set_ylim(*ends)
    ax.set_aspect("equal")
    ax.set_title(title, loc="left", fontsize=9.5, color=INK)
    ax.set_xlabel("measured", fontsize=8.5, color=INK)
    ax.set_ylabel("predicted", fontsize=8.5, color=INK)
    ax.tick_params(labelsize=7.5, which="both", colors=MUTED)
    ax.grid(True, color=GRID, linewidth=0.4)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
