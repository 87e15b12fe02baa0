"""A plan that does not fit in memory: demand, capacity, gap, and what would make it fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipesim.report import numbers
from pipesim.report.columns import indent, table


def fits(metrics: Mapping[str, Any]) -> bool:
    """False only when a run is known not to fit; without a capacity everything does."""
    return (metrics.get("memory") or {}).get("fits") is not False


def misfit(metrics: Mapping[str, Any]) -> list[str]:
    """Lines that explain why a plan does not fit, none when it does.

    ``metrics["memory"]`` may carry ``advice``: sentences that say what would make it fit.
    """
    if fits(metrics):
        return []
    memory = metrics["memory"]
    demand, capacity = memory.get("peak_bytes"), memory.get("capacity_bytes")
    lines = ["DOES NOT FIT in memory"]
    if demand is not None and capacity is not None and demand > capacity:
        gap = demand - capacity
        rows = [
            ("demand", numbers.size(demand), _fullest(metrics)),
            ("capacity", numbers.size(capacity), ""),
            ("gap", numbers.size(gap), f"{numbers.share(gap / capacity)} over"),
        ]
        lines += indent(table(rows, "<><"))
    host = metrics.get("offload") or {}
    if host.get("host_fits") is False:
        need, there = (numbers.size(host[key]) for key in ("node_peak_bytes", "host_capacity_bytes"))
        lines.append(f"  offloaded activations need {need} of a node's host memory, which has {there}")
    advice = memory.get("advice") or []
    if advice:
        lines += ["  What would make it fit:", *(f"    - {line}" for line in advice)]
    return lines


def _fullest(metrics: Mapping[str, Any]) -> str:
    peaks = [(rank["memory"]["peak_bytes"], rank["rank"]) for rank in metrics.get("ranks") or [] if rank.get("memory")]
    peaks = [peak for peak in peaks if peak[0] is not None]
    return f"on rank {max(peaks, key=lambda peak: (peak[0], -peak[1]))[1]}" if peaks else ""
