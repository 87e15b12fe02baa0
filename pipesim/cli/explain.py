"""``pipesim explain``."""

from __future__ import annotations

import argparse

from pipesim.cli.output import check_files, say, working, write_json
from pipesim.cli.run import exit_code


def explain(arguments: argparse.Namespace) -> int:
    """Say why each bubble is there, and what would bring more speed."""
    check_files({"--json": arguments.json}, [arguments.config])
    from pipesim import api
    from pipesim.study.explain import explain as explain_config

    config = api.load(arguments.config, overrides=arguments.overrides)
    with working("simulating"):
        explanation = explain_config(config)
    say(str(explanation).rstrip("\n"), arguments.json)
    if arguments.json:
        write_json(explanation.as_json(), arguments.json)
    return exit_code([explanation.result.metrics])
