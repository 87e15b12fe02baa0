"""``pipesim export``."""

from __future__ import annotations

import argparse

from pipesim.cli.output import check_files, write_text


def export(arguments: argparse.Namespace) -> int:
    """Write the program of a config as a file that another tool runs."""
    check_files({"FILE": arguments.file}, [arguments.config])
    from pipesim import api
    from pipesim.interop.torch_csv import FORMATS

    program = api.program(api.load(arguments.config, overrides=arguments.overrides))
    write_text(FORMATS[arguments.to](program), arguments.file)
    return 0
