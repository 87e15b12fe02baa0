"""``pipesim show``."""

from __future__ import annotations

import argparse
import sys

from pipesim.errors import ConfigError, Problem

MAX_SHOWN = 2 * 10**7
"""Largest number of F, I and W ops that are printed: some ten seconds, and 200 MB of text."""


def show(arguments: argparse.Namespace) -> int:
    """Print the program: every rank's ops in order, without times."""
    from pipesim import api

    plan = api.plan(api.load(arguments.config, overrides=arguments.overrides))
    size = plan.schedule.size(plan.setting.ranks, plan.setting.microbatches)
    if size.ops > MAX_SHOWN:
        allowed = f"at most {MAX_SHOWN:.0e} ops: fewer micro-batches, ranks, or chunks or waves per rank"
        raise ConfigError([Problem("schedule", "too large to print", str(size), allowed)], plan.config.source)
    program = plan.program()
    text = program.grid() if arguments.format == "grid" else program.to_csv()
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    return 0
