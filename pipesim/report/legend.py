"""The legend of a chart: one entry per kind that occurs, with its shades, and what stripes and lines mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pipesim.report.boxes import STRIPED_ROUTES
from pipesim.report.colours import IDLE, INK, STRIPE, chunk_shade, in_legend_order, paint, rgb
from pipesim.report.lanes import COMPUTE, chunk_of

Entry = tuple[Any, str]

SHADES = 4
"""At most so many chunks are shown side by side."""

SIDE_BY_SIDE: dict[Any, Any] = {tuple: HandlerTuple(ndivide=None, pad=0.0)}
"""Draws several swatches in one legend entry."""

_GREY = rgb("#80858c")


def entries(frame: pd.DataFrame, resources: Sequence[str], critical: bool) -> list[Entry]:
    """Handles and names for what a chart of these lanes shows. ``frame`` is a checked timeline."""
    found = kinds(frame, resources) + marks(frame, resources)
    if COMPUTE in resources:
        found.append(bubble())
    if critical:
        found.append((Line2D([], [], color=INK, linewidth=1.6), "critical path"))
    return found


def add(axes: Axes, found: Sequence[Entry], columns: int) -> int:
    """Put the legend above the axes, left-aligned; returns its number of rows."""
    axes.legend(
        [handle for handle, _ in found],
        [name for _, name in found],
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=columns,
        frameon=False,
        fontsize=8,
        borderaxespad=0.3,
        borderpad=0.1,
        handlelength=1.1,
        handleheight=0.9,
        handletextpad=0.45,
        columnspacing=1.3,
        labelcolor=INK,
        handler_map=SIDE_BY_SIDE,
    )
    return -(-len(found) // max(columns, 1))


def columns(found: Sequence[Entry], room: float) -> int:
    """How many entries fit side by side into so many points, at about 4.6 a character and 30 around it."""
    rows = math.ceil(sum(len(name) * 4.6 + 30 for _, name in found) / room)
    return math.ceil(len(found) / rows)


def kinds(frame: pd.DataFrame, resources: Sequence[str]) -> list[Entry]:
    """One entry per colour of the ops on some lanes, in legend order, unknown kinds last."""
    shown = frame[frame["resource"].isin(list(resources)) & (frame["end_s"] > frame["start_s"])]
    paints = [paint(kind) for kind in in_legend_order(map(str, shown["kind"].unique()))]
    return [(Patch(facecolor=item.colour), item.name) for item in dict.fromkeys(paints)]


def marks(frame: pd.DataFrame, resources: Sequence[str]) -> list[Entry]:
    """What shades and stripes mean, where there are any."""
    shown = frame[frame["resource"].isin(list(resources))]
    return _chunk_entries(shown) + _route_entries(shown)


def bubble() -> Entry:
    """What shows through where a rank is idle."""
    return Patch(facecolor=IDLE), "bubble"


def _chunk_entries(shown: pd.DataFrame) -> list[Entry]:
    chunks = int(chunk_of(shown).max(initial=0)) + 1
    if chunks < 2:
        return []
    shades = [chunk_shade(_GREY, chunk, chunks) for chunk in range(min(chunks, SHADES))]
    last = "" if chunks <= SHADES else f" … {chunks - 1}"
    name = "chunk " + ", ".join(str(chunk) for chunk in range(min(chunks, SHADES))) + last
    return [(tuple(Patch(facecolor=tuple(shade)) for shade in shades), name)]


def _route_entries(shown: pd.DataFrame) -> list[Entry]:
    """Every striped route's stripe is as high as on the ops, so one swatch per route tells them apart."""
    routes = int(shown["route"].max()) + 1
    if not 2 <= routes <= STRIPED_ROUTES:
        return []
    dark = tuple(_GREY * STRIPE)
    name = "route 1" if routes == 2 else f"routes 1 to {routes - 1}, the higher the stripe"
    return [(Line2D([], [], color=dark, linewidth=3, solid_capstyle="butt"), name)]
