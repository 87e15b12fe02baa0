"""``pipesim compare``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any

from pipesim.cli import EXIT_BAD_INPUT
from pipesim.cli.arguments import words
from pipesim.cli.output import STANDARD_OUTPUT, check_files, print_table, working, write_json
from pipesim.cli.run import exit_code, save_figure
from pipesim.units import format_bytes, format_seconds


def compare(arguments: argparse.Namespace) -> int:
    """Simulate every config with every schedule; print a table, draw a figure."""
    check_files({"--json": arguments.json, "--plot": arguments.plot})
    schedules = words(arguments.schedules) if arguments.schedules is not None else None
    from pipesim.study.compare import compare as simulate_all

    with working("simulating"):
        comparison = simulate_all(arguments.config, schedules, arguments.overrides)
    for row in comparison.rows:
        if row["error"] is not None:
            print(f"pipesim: {row['label']} cannot run: {row['error']}", file=sys.stderr)
    if arguments.json != STANDARD_OUTPUT:
        _print(comparison.rows)
    if arguments.json:
        write_json(comparison.as_json(), arguments.json)
    if not comparison.results:
        return EXIT_BAD_INPUT
    if arguments.plot:
        save_figure(comparison.plot(), arguments.plot)
    return exit_code([result.metrics for result in comparison.results])


_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "label": ("plan", str),
    "step_time_s": ("step time", format_seconds),
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

_HARDWARE_ONLY = ("fits", "tokens_per_s", "mfu")


def _print(rows: list[dict[str, Any]]) -> None:
    """Columns that no plan has a value for are left out; so are bytes where memory is in abstract units."""
    known = [key for key in _COLUMNS if any(row.get(key) is not None for row in rows)]
    if not any(row.get("fits") is not None for row in rows):
        known = [key for key in known if key not in (*_HARDWARE_ONLY, "peak_bytes")]
    print_table("Comparison", [_COLUMNS[key][0] for key in known], [_cells(row, known) for row in rows])


def _cells(row: Mapping[str, Any], known: list[str]) -> list[str]:
    return [_COLUMNS[key][1](row[key]) if row.get(key) is not None else "-" for key in known]
