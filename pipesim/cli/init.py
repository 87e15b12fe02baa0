"""``pipesim init``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pipesim.cli.output import STANDARD_OUTPUT, OutputError, check_files, progress, write_text


def init(arguments: argparse.Namespace) -> int:
    """Write a commented config to start from."""
    out: str | None = arguments.out
    check_files({"--out": out})
    if out is not None and Path(out).exists():
        raise OutputError(f"--out: '{out}' is already there; it would be overwritten")
    from pipesim.study.starter import Wish, starter
    from pipesim.study.starter_file import starter_file

    wish = Wish.read(arguments.model, arguments.cluster)
    with progress("simulating plans") as report:
        plan = starter(wish, report)
    write_text(starter_file(plan, wish, _seen_from(out, arguments.model)), out or STANDARD_OUTPUT)
    return 0


def _seen_from(out: str | None, model: str) -> str:
    """Paths in a config are relative to it."""
    if out is None or not Path(model).is_file():
        return model
    return Path(os.path.relpath(model, Path(out).parent)).as_posix()
