"""``pipesim run``."""

from __future__ import annotations

import argparse
from typing import Any

from pipesim.cli import EXIT_DOES_NOT_FIT
from pipesim.cli.output import check_directory, check_files, say, say_summary, working, write_text


def run(arguments: argparse.Namespace) -> int:
    """Simulate one config, print the summary, write what was asked for."""
    names = ("json", "gantt", "trace", "html")
    check_files({f"--{name}": getattr(arguments, name) for name in names}, [arguments.config])
    from pipesim import api
    from pipesim.report import files

    check_directory("--out", arguments.out, files.NAMES, [arguments.config])

    engine = [f"simulation.engine={arguments.engine}"] if arguments.engine else []
    config = api.load(arguments.config, overrides=[*arguments.overrides, *engine])
    with working("simulating"):
        result = api.simulate(config, engine=config.simulation.engine)
    try:
        _write(result, arguments)
    finally:  # files first: a reader of the summary may go away; but the summary even if they cannot be written
        say_summary(result, arguments.json)
    if exit_code([result.metrics]):
        _advise(config, arguments)
    return exit_code([result.metrics])


def exit_code(metrics: list[dict[str, Any]]) -> int:
    """1 when none of the plans fits in memory; without hardware every plan fits."""
    fits = [one["memory"]["fits"] is not False for one in metrics]
    return 0 if any(fits) else EXIT_DOES_NOT_FIT


def _advise(config: Any, arguments: argparse.Namespace) -> None:
    from pipesim.study.advice import advise

    with working("looking for what would fit"):
        found = advise(config)
    if found:
        lines = ["What would change that, one at a time:", *(f"  {each}" for each in found)]
        say("\n".join(lines), arguments.json)


def _write(result: Any, arguments: argparse.Namespace) -> None:
    if arguments.json:
        write_text(result.to_json(), arguments.json)
    if arguments.out:
        result.save(arguments.out)
    if arguments.gantt:
        save_figure(result.gantt().figure, arguments.gantt)
    if arguments.trace:
        result.write_trace(arguments.trace)
    if arguments.html:
        result.write_html(arguments.html)


def save_figure(figure: Any, name: str) -> None:
    """Draw into a file of the format that its name ends in; the same bytes every time."""
    from pipesim.report.figures import save

    save(figure, name)
