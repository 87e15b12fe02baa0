"""``pipesim validate``."""

from __future__ import annotations

import argparse
import sys

from pipesim.cli import EXIT_BAD_INPUT
from pipesim.config import Config, load_config
from pipesim.errors import PipesimError


def validate(arguments: argparse.Namespace) -> int:
    """Check configs; one line for each good one, every problem of each bad one."""
    good = [_is_good(path, arguments.overrides) for path in arguments.config]
    return 0 if all(good) else EXIT_BAD_INPUT


def _is_good(path: str, overrides: list[str]) -> bool:
    try:
        config = load_config(path, overrides)
    except PipesimError as error:
        print(error, file=sys.stderr)
        return False
    print(f"{path}: ok ({_described(config)})")
    return True


def _described(config: Config) -> str:
    parts = [
        f"{config.form} form",
        config.schedule.name,
        f"{config.ranks} rank{'s' * (config.ranks != 1)}",
        f"{config.microbatches} micro-batch{'es' * (config.microbatches != 1)}",
        *config.notes(),
    ]
    return ", ".join(parts)
