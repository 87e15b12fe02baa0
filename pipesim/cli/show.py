"""``pipesim show``."""

from __future__ import annotations

import argparse
import sys


def show(arguments: argparse.Namespace) -> int:
    """Print the program: every rank's ops in order, without times."""
    from pipesim import api

    program = api.program(api.load(arguments.config, overrides=arguments.overrides))
    text = program.grid() if arguments.format == "grid" else program.to_csv()
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    return 0
