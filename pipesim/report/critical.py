"""The critical path on a chart: a line along the lower edge of its ops, stepping from rank to rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patheffects import Normal, Stroke

from pipesim.errors import PipesimError
from pipesim.report.colours import INK
from pipesim.report.lanes import COMPUTE, Lanes

Steps = tuple[int, float, float]
"""Rank, start and end in seconds."""

DEPTH = 0.1
"""Where the line runs: this share of a lane above its lower edge, clear of the micro-batch numbers."""


def path_steps(frame: pd.DataFrame, path: Sequence[int] | Sequence[Steps]) -> list[Steps]:
    """The path as (rank, start_s, end_s), in order of time; ops that no rank owns are left out.

    Raises:
        PipesimError: a row position lies outside the timeline.
    """
    if not len(path):
        return []
    if np.ndim(path[0]) == 0:
        rows = np.asarray(path, np.int64)
        if rows.min() < 0 or rows.max() >= len(frame):
            raise PipesimError(f"critical path: row {rows.max()} of a timeline with {len(frame)} ops")
        ops = frame.iloc[rows]
        steps = list(zip(ops["rank"].tolist(), ops["start_s"].tolist(), ops["end_s"].tolist(), strict=True))
    else:
        steps = list(cast("Sequence[Steps]", path))
    return sorted((step for step in steps if step[0] >= 0), key=lambda step: (step[1], step[2]))


def draw_path(ax: Axes, layout: Lanes, steps: Sequence[Steps]) -> None:
    """Draw the path as one line with a white halo."""
    if not steps:
        return
    column = layout.resources.index(COMPUTE) if COMPUTE in layout.resources else 0
    row = np.searchsorted(layout.ranks, [rank for rank, _, _ in steps])
    level = layout.bottom[row, column] - DEPTH * (layout.bottom - layout.top)[row, column]
    times = np.array([(start, end) for _, start, end in steps]).ravel()
    (line,) = ax.plot(times, np.repeat(level, 2), color=INK, linewidth=1.4, zorder=4, solid_joinstyle="miter")
    line.set_path_effects([Stroke(linewidth=2.8, foreground="white"), Normal()])
    line.set_in_layout(False)
