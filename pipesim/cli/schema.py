"""``pipesim schema``."""

from __future__ import annotations

import argparse

from pipesim.cli.output import STANDARD_OUTPUT, write_json
from pipesim.config import json_schema


def schema(_arguments: argparse.Namespace) -> int:
    """Print the JSON schema of configs."""
    write_json(json_schema(), STANDARD_OUTPUT)
    return 0
