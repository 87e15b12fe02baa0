"""Several runs side by side: a tidy table, and the same as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from pipesim.errors import PipesimError
from pipesim.report import numbers
from pipesim.report.columns import table as align
from pipesim.report.misfit import fits
from pipesim.report.text import time_unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Run(NamedTuple):
    """One plan: its name, its metrics (as in the result JSON), its timeline and its memory over time."""

    label: str
    metrics: Mapping[str, Any]
    frame: pd.DataFrame
    memory: pd.DataFrame | None = None


COLUMNS = (
    "label",
    "step_time_s",
    "relative_step_time",
    "speedup",
    "bubble_fraction",
    "bubble_overhead",
    "span_bubble_fraction",
    "peak_in_flight",
    "peak_bytes",
    "relative_peak_bytes",
    "capacity_bytes",
    "fits",
    "samples_per_s",
    "tokens_per_s",
    "tokens_per_s_per_gpu",
    "model_tflops_per_gpu",
    "mfu",
)
"""Columns of the comparison, in order."""

Item = Run | Sequence[Any]


def table(runs: Iterable[Item]) -> pd.DataFrame:
    """One row per run, in the given order; what is not known is missing (NaN, or None for ``fits``).

    ``relative_step_time`` and ``relative_peak_bytes`` divide by the first run's, ``speedup`` is the inverse of
    the former. ``peak_in_flight`` is the largest over ranks.

    Raises:
        PipesimError: there is no run.
    """
    listed = as_runs(runs)
    rows = [_row(run) for run in listed]
    data = pd.DataFrame(rows)
    data["relative_step_time"] = data["step_time_s"] / data["step_time_s"].iloc[0]
    data["speedup"] = 1.0 / data["relative_step_time"]
    data["relative_peak_bytes"] = data["peak_bytes"] / data["peak_bytes"].iloc[0]
    return data[list(COLUMNS)]


def as_runs(runs: Iterable[Item]) -> list[Run]:
    """Runs, or tuples of label, metrics, frame and memory.

    Raises:
        PipesimError: there is no run.
    """
    listed = [run if isinstance(run, Run) else Run(*run) for run in runs]
    if not listed:
        raise PipesimError("there is nothing to compare: give at least one run")
    return listed


def _row(run: Run) -> dict[str, Any]:
    metrics = run.metrics
    memory, throughput = metrics.get("memory") or {}, metrics.get("throughput") or {}
    in_flight = [rank.get("peak_in_flight") for rank in metrics.get("ranks") or []]
    times = ("step_time_s", "bubble_fraction", "bubble_overhead", "span_bubble_fraction")
    rates = ("samples_per_s", "tokens_per_s", "tokens_per_s_per_gpu", "model_tflops_per_gpu", "mfu")
    row: dict[str, Any] = {key: _number(metrics.get(key)) for key in times}
    row |= {key: _number(memory.get(key)) for key in ("peak_bytes", "capacity_bytes")}
    row |= {key: _number(throughput.get(key)) for key in rates}
    row["peak_in_flight"] = _number(max((peak for peak in in_flight if peak is not None), default=None))
    return {"label": run.label, "fits": memory.get("fits"), **row}


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def table_text(runs: Iterable[Item]) -> str:
    """The table as aligned text; columns of which nothing is known are left out, misfits are marked."""
    listed = as_runs(runs)
    data = table(listed)
    plain = time_unit(listed[0].metrics)
    columns: list[tuple[str, list[str]]] = [("", [str(label) for label in data["label"]])]

    def add(title: str, key: str, form: Any) -> None:
        if data[key].notna().any():
            columns.append((title, ["-" if pd.isna(value) else form(value) for value in data[key]]))

    add("step time", "step_time_s", lambda value: numbers.duration(value, plain))
    add("relative", "relative_step_time", lambda value: f"{value:.3f}")
    add("bubble fraction", "bubble_fraction", numbers.share)
    add("bubble overhead", "bubble_overhead", numbers.share)
    add("span bubble fraction", "span_bubble_fraction", numbers.share)
    add("in flight", "peak_in_flight", lambda value: f"{value:g}")
    add("peak memory", "peak_bytes", lambda value: numbers.size(value, plain))
    add("tokens/s/GPU", "tokens_per_s_per_gpu", numbers.grouped)
    add("MFU", "mfu", numbers.share)
    columns.append(("", [verdict(run.metrics) for run in listed]))
    head, body = [title for title, _ in columns], zip(*(cells for _, cells in columns), strict=True)
    aligns = "<" + ">" * (len(columns) - 2) + "<"
    return "\n".join(align([head, *body], aligns)) + "\n"


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
