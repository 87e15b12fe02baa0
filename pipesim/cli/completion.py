"""``pipesim completion``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from pipesim.cli.arguments import _build

_FILES = {"config", "json", "gantt", "trace", "plot", "html", "kineto", "out", "gpu_out"}
"""Arguments that are files or directories, by what they are stored as."""


def completion(arguments: argparse.Namespace) -> int:
    """Print a script that completes commands, flags, files and names of the catalog."""
    import shtab

    parser, commands = _build()
    for command in commands.values():
        for action in command._actions:
            _say_what_completes(action, shtab)
    sys.stdout.write(shtab.complete(parser, arguments.shell) + "\n")
    return 0


def _say_what_completes(action: Any, shtab: Any) -> None:
    from pipesim import catalog

    if action.dest in _FILES:
        action.complete = shtab.FILE
    elif action.dest in ("model", "cluster"):
        action.choices = catalog.names({"model": "models", "cluster": "gpus"}[action.dest])
