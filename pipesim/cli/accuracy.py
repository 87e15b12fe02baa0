"""``pipesim accuracy``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipesim.cli.output import STANDARD_OUTPUT, check_files, print_table, progress, write_json
from pipesim.cli.run import save_figure
from pipesim.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from pipesim.study.accuracy import Accuracy, Comparison, Summary


def accuracy(arguments: argparse.Namespace) -> int:
    """Simulate the published runs of the catalog; print how far predictions are from measurements."""
    check_files({"--json": arguments.json, "--plot": arguments.plot})
    from pipesim.study.accuracy import accuracy as compare_all

    with progress("simulating published runs") as report:
        found = compare_all(arguments.source, overrides=arguments.overrides, progress=report)
    if arguments.json != STANDARD_OUTPUT:
        _print(found, arguments.rows)
    if arguments.json:
        write_json(found.as_json(), arguments.json)
    if arguments.plot:
        save_figure(found.plot(), arguments.plot)
    return 0


_HEADINGS = ("source", "of", "rows", "runs", "mean error", "median", "p90", "bias", "rank corr.", "series")


def _print(found: Accuracy, rows: bool) -> None:
    if rows:
        heads = ("source", "plan", "quantity", "measured", "predicted", "error")
        print_table("Rows", heads, [_row(each) for each in found.comparisons])
        print()
    print_table("Predicted against published", _HEADINGS, _lines(found.by_group()))
    totals = found.by_family()
    if totals:
        print()
        print_table("Training runs", _HEADINGS, _lines(totals))
    print(
        "\nErrors are of time (positive: predicted too slow) or bytes. Series: mean error after one row of each"
        "\nseries has calibrated the compute rate. Nothing is fitted to these rows but the launch floor of A100"
        "\nhosts, to vtrain-a100."
    )


def _lines(summaries: Sequence[Summary]) -> list[list[str]]:
    return [_line(each) for each in summaries]


def _line(each: Summary) -> list[str]:
    errors = [f"{value:.1%}" for value in (each.mean_absolute, each.median, each.p90)]
    rank = "-" if each.rank_correlation is None else f"{each.rank_correlation:.2f}"
    series = "-" if each.series is None else f"{each.series:.1%}"
    what = "bytes" if each.memory else "time"
    return [each.name, what, str(each.rows), str(each.runs), *errors, f"{each.bias:+.1%}", rank, series]


def _row(each: Comparison) -> list[str]:
    row = each.measurement
    values = [_value(row.quantity, value) for value in (row.value, each.predicted)]
    return [row.group, row.label, row.quantity, *values, f"{each.error:+.1%}"]


def _value(quantity: str, value: float) -> str:
    if quantity.endswith("_bytes"):
        return format_bytes(value)
    if quantity.endswith("_s") and not quantity.endswith("per_s"):
        return format_seconds(value)
    return f"{value / 1e12:.1f} TFLOP/s" if quantity.startswith("hardware_flops") else f"{value:.4g}"
