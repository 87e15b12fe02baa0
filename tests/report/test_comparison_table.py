"""The table of a comparison shows what is known, in words that people read."""

from __future__ import annotations

from pipesim.report.comparison_table import table

ABSTRACT = {"label": "1f1b", "step_time_s": 33.0, "bubble_fraction": 3 / 11, "peak_in_flight": 5.5, "peak_bytes": 5.5}
REAL = {**ABSTRACT, "peak_bytes": 42.7e9, "fits": False, "tokens_per_s": 11223.4, "mfu": 0.403}


def test_cells_have_units() -> None:
    """Three digits, units, and capitals for a plan that does not fit."""
    headings, (cells,) = table([REAL])
    known = ["plan", "step time", "bubble fraction", "in flight", "peak memory", "fits", "tokens/s", "MFU"]
    assert headings == known
    assert cells == ["1f1b", "33.0 s", "27.27%", "5.5", "42.7 GB", "NO", "11,223", "40.3%"]


def test_abstract_sizes_are_not_bytes_and_times_are_not_seconds() -> None:
    """Without a capacity there is no column of bytes, and a time is a bare number."""
    headings, (cells,) = table([ABSTRACT])
    assert cells[1] == "33"
    assert headings == ["plan", "step time", "bubble fraction", "in flight"]


def test_a_plan_that_cannot_run_keeps_its_row() -> None:
    """With dashes."""
    _, rows = table([ABSTRACT, {"label": "chimera", "error": "P must be even"}])
    assert rows[1] == ["chimera", "-", "-", "-"]
