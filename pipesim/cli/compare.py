"""``pipesim compare``."""

from __future__ import annotations

import argparse
import sys

from pipesim.cli import EXIT_BAD_INPUT
from pipesim.cli.arguments import words
from pipesim.cli.output import STANDARD_OUTPUT, check_files, print_table, progress, write_json
from pipesim.cli.run import exit_code, save_figure


def compare(arguments: argparse.Namespace) -> int:
    """Simulate every config with every schedule; print a table, draw a figure."""
    check_files({"--json": arguments.json, "--plot": arguments.plot}, arguments.config)
    schedules = words(arguments.schedules) if arguments.schedules is not None else None
    from pipesim.study.compare import compare as simulate_all

    with progress("simulating") as report:
        comparison = simulate_all(arguments.config, schedules, arguments.overrides, progress=report)
    for row in comparison.rows:
        if row["error"] is not None:
            print(f"pipesim: {row['label']} cannot run: {row['error']}", file=sys.stderr)
    if arguments.json != STANDARD_OUTPUT:
        from pipesim.report.comparison_table import table

        print_table("Comparison", *table(comparison.rows))
    if arguments.json:
        write_json(comparison.as_json(), arguments.json)
    if not comparison.results:
        return EXIT_BAD_INPUT
    if arguments.plot:
        save_figure(comparison.plot(), arguments.plot)
    return exit_code([result.metrics for result in comparison.results])
