"""Why ranks idle and what would bring more speed, as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipesim.report import numbers
from pipesim.report.columns import bar, indent, table
from pipesim.report.heading import heading
from pipesim.report.text import PARTS, time_unit

Row = Mapping[str, Any]

NAMES = {**PARTS, "dependency": "waiting for an op", "synchronisation": "synchronisation"}
"""Causes of idle time."""

LEAST = 0.0005
"""Share of the step below which a part's gain is not worth a line."""


def explanation(metrics: Row, causes: Sequence[Row], sensitivities: Sequence[Row], less: float) -> str:
    """The explanation of a run as text that ends in a newline.

    Args:
        metrics: as in the result JSON.
        causes: ``cause``, ``mean_s``, ``share`` and ``longest`` intervals, most idle time first.
        sensitivities: ``what``, ``first_order_s`` and ``gain_s``.
        less: the share of its time that each part takes less, in turn.
    """
    sections = [
        heading(metrics.get("config") or {}, len(metrics["ranks"])),
        _idle(metrics, causes),
        _longest(metrics, causes),
        _sensitivities(metrics, sensitivities, less),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def _idle(metrics: Row, causes: Sequence[Row]) -> list[str]:
    step_s, unit = metrics["step_time_s"], time_unit(metrics)
    total = sum(row["mean_s"] for row in causes)
    head = f"Of a step of {numbers.duration(step_s, unit)}, ranks idle {numbers.duration(total, unit)} on average"
    times = numbers.durations([row["mean_s"] for row in causes], step_s, unit)
    rows = [
        (NAMES[row["cause"]], time, numbers.share(row["share"]), bar(row["share"], 30))
        for row, time in zip(causes, times, strict=True)
    ]
    return [head, *indent(table(rows, "<>><"))]


def _longest(metrics: Row, causes: Sequence[Row]) -> list[str]:
    unit = time_unit(metrics) or numbers.time_unit(metrics["step_time_s"])
    rows = [("", "rank", "from", "to", "waits for", "")]
    for row in causes:
        for index, each in enumerate(row["longest"]):
            name = NAMES[row["cause"]] if index == 0 else ""
            times = numbers.durations([each["start_s"], each["end_s"]], metrics["step_time_s"], unit)
            place = f"on rank {each['on_rank']}" if each["on_rank"] >= 0 else ""
            rows.append((name, str(each["rank"]), *times, each["waiting_for"], place))
    return ["Longest waits of each kind", *indent(table(rows, "<>>><<"))] if len(rows) > 1 else []


def _sensitivities(metrics: Row, sensitivities: Sequence[Row], less: float) -> list[str]:
    step_s, unit = metrics["step_time_s"], time_unit(metrics)
    shown = [row for row in sensitivities if row["gain_s"] is not None and row["first_order_s"] >= LEAST * step_s]
    if not shown:
        return []
    rows = [("", "on the critical path", "simulated"), *(_part(row, step_s, unit) for row in shown)]
    return [
        f"What {100 * less:g} % less time would bring, each part alone",
        *indent(table(rows, "<>>")),
        "  Where the two differ, other ops become critical on the way.",
    ]


def _part(row: Row, step_s: float, unit: str | None) -> tuple[str, str, str]:
    return row["what"], _gain(row["first_order_s"], step_s, unit), _gain(row["gain_s"], step_s, unit)


def _gain(value_s: float, step_s: float, unit: str | None) -> str:
    (time,) = numbers.durations([value_s], step_s, unit)
    return f"{time}  {numbers.share(value_s / step_s):>6}"
