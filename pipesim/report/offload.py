"""The part of the summary about activations in host memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipesim.report import numbers
from pipesim.report.columns import indent, table


def offload(metrics: Mapping[str, Any], unit: str | None) -> list[str]:
    """How much goes to the host and back, and what that takes; nothing without offloading.

    ``unit``: of all times and sizes, or None for ones that fit.
    """
    section = metrics.get("offload")
    if not section:
        return []
    rows = [
        ("Offload ratio k", numbers.digits(section["k"]), "a round trip of all activations, over computing"),
        ("Copied", numbers.share(section["share"]), "of all activations"),
        ("Copied per GPU and step", numbers.size(section["copied_bytes"], unit), "each way"),
        ("Waited for copies", numbers.duration(section["waited_s"], unit), "mean over ranks"),
        ("Host memory per GPU", numbers.size(max(section["host_peak_bytes"]), unit), "at most"),
    ]
    if section["node_peak_bytes"] is not None:
        capacity = section["host_capacity_bytes"]
        remark = "of the fullest" + (f", capacity {numbers.size(capacity)}" if capacity is not None else "")
        rows.append(("Host memory per node", numbers.size(section["node_peak_bytes"]), remark))
    return ["Activations in host memory", *indent(table(rows, "<><"))]
