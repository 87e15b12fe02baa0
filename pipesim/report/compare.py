"""Several runs side by side in one figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from pipesim.errors import PipesimError
from pipesim.report import numbers
from pipesim.report.misfit import fits

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Run(NamedTuple):
    """One plan: its name, its metrics (as in the result JSON), its timeline and its memory over time."""

    label: str
    metrics: Mapping[str, Any]
    frame: pd.DataFrame
    memory: pd.DataFrame | None = None


Item = Run | Sequence[Any]


def as_runs(runs: Iterable[Item]) -> list[Run]:
    """Runs, or tuples of label, metrics, frame and memory.

    Raises:
        PipesimError: there is no run.
    """
    listed = [run if isinstance(run, Run) else Run(*run) for run in runs]
    if not listed:
        raise PipesimError("there is nothing to compare: give at least one run")
    return listed


def verdict(metrics: Mapping[str, Any]) -> str:
    """Empty for a plan that fits, else by how much it does not."""
    if fits(metrics):
        return ""
    memory = metrics["memory"]
    demand, capacity = memory.get("peak_bytes"), memory.get("capacity_bytes")
    if demand is None or capacity is None:
        return "does not fit"
    return f"does not fit: {numbers.size(demand)} of {numbers.size(capacity)}"


def figure(runs: Iterable[Item], *, title: str | None = None) -> Figure:
    """Stacked Gantt charts on one time axis, with bars for bubble and memory beside each.

    Raises:
        PipesimError: there is no run, or a timeline cannot be drawn.
    """
    from pipesim.report.compare_figure import draw

    return draw(as_runs(runs), title)
