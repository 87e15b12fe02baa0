"""The rows of a comparison as a table for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipesim.report import numbers
from pipesim.units import format_bytes, format_seconds

COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "label": ("plan", str),
    "step_time_s": ("step time", format_seconds),
    "microbatch_s": ("per micro-batch", format_seconds),
    "speedup": ("speed", lambda x: f"{x:.3f}x"),
    "bubble_fraction": ("bubble fraction", lambda x: f"{x:.2%}"),
    "bubble_overhead": ("bubble overhead", lambda x: f"{x:.2%}"),
    "span_bubble_fraction": ("span bubble fraction", lambda x: f"{x:.2%}"),
    "peak_in_flight": ("in flight", lambda x: f"{x:g}"),
    "peak_bytes": ("peak memory", format_bytes),
    "fits": ("fits", lambda x: "yes" if x else "NO"),
    "tokens_per_s": ("tokens/s", lambda x: f"{x:,.0f}"),
    "mfu": ("MFU", lambda x: f"{x:.1%}"),
}
"""Key of a row -> heading, and how its value is written."""

_HARDWARE_ONLY = ("peak_bytes", "fits", "tokens_per_s", "mfu")

_TIMES = ("step_time_s", "microbatch_s")


def table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings, and cells row by row; ``-`` where a plan has no value.

    Columns that no plan has a value for are left out. Where memory is in abstract units there are no bytes, and times
    are bare numbers.
    """
    known = [key for key in COLUMNS if any(row.get(key) is not None for row in rows)]
    forms = {key: COLUMNS[key][1] for key in known}
    if not any(row.get("fits") is not None for row in rows):
        forms = {key: form for key, form in forms.items() if key not in _HARDWARE_ONLY}
        forms |= dict.fromkeys(forms.keys() & set(_TIMES), lambda x: numbers.duration(x, numbers.PLAIN))
    return [COLUMNS[key][0] for key in forms], [_cells(row, forms) for row in rows]


def _cells(row: Mapping[str, Any], forms: Mapping[str, Callable[[Any], str]]) -> list[str]:
    return [form(row[key]) if row.get(key) is not None else "-" for key, form in forms.items()]
