"""The part of the summary that runs without a flush have instead of bubbles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipesim.report import numbers
from pipesim.report.columns import indent, table

FEW = 8
"""Up to so many stages have a number each; of more, the extremes stand for all."""


def asynchronous(metrics: Mapping[str, Any], unit: str | None) -> list[str]:
    """Steady rate, fill and drain, and per stage staleness and versions; nothing for runs with a flush.

    ``unit``: of all times and sizes, or None for ones that fit.
    """
    section = metrics.get("asynchronous")
    if not section:
        return []
    rows = [
        *_steady(section.get("steady"), unit),
        ("Fill", numbers.duration(section["fill_s"], unit), "until every rank has finished a backward"),
        ("Drain", numbers.duration(section["drain_s"], unit), "from when some rank has no forwards left"),
        *_weights(section, unit),
    ]
    return ["Without a flush", *indent(table(rows, "<><"))]


def _steady(steady: Mapping[str, Any] | None, unit: str | None) -> list[tuple[str, str, str]]:
    if steady is None:
        return [("Steady state", "-", "not reached: simulate more micro-batches")]
    over = f"over {steady['microbatches']} micro-batches between fill and drain"
    rows = [("Steady time per micro-batch", numbers.duration(steady["period_s"], unit), over)]
    labels: dict[str, tuple[str, Callable[[float], str]]] = {
        "tokens_per_s": ("Steady tokens per second", numbers.grouped),
        "mfu": ("Steady MFU", numbers.share),
    }
    rates = steady.get("throughput") or {}
    return rows + [(name, form(rates[key]), "") for key, (name, form) in labels.items() if rates.get(key) is not None]


def _weights(section: Mapping[str, Any], unit: str | None) -> list[tuple[str, str, str]]:
    stages = section["stages"]

    def column(key: str) -> Sequence[float]:
        return [stage[key] for stage in stages]

    extra = column("extra_weights_bytes")
    rows = [
        ("Staleness by stage", _few(column("staleness"), str), "updates between a gradient's weights and its target"),
        ("Weight versions by stage", _few(column("versions"), str), section["weights"]),
    ]
    if any(extra):
        sizes = _few(extra, lambda amount: numbers.size(amount, unit))
        rows.append(("Extra weights by stage", sizes, "beside one copy; part of weights above"))
    return rows


def _few(values: Sequence[Any], form: Callable[[Any], str]) -> str:
    if len(values) <= FEW:
        return ", ".join(map(form, values))
    return f"{form(min(values))} to {form(max(values))}"
