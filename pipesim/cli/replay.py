"""``pipesim replay``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipesim.cli.output import aligned, check_directory, check_files, say, working, write_json
from pipesim.cli.run import save_figure

if TYPE_CHECKING:
    from pipesim.study.replay import Replay


def replay(arguments: argparse.Namespace) -> int:
    """Run a config's program on PyTorch's pipeline runtime and hold it against the simulation."""
    files = {"--json": arguments.json, "--gantt": arguments.gantt, "--trace": arguments.trace}
    check_files(files, [arguments.config])
    check_directory("--kineto", arguments.kineto)
    from pipesim import api
    from pipesim.study.replay import replay as run

    config = api.load(arguments.config, overrides=arguments.overrides)
    profile = _directory(arguments.kineto)
    with working("running on PyTorch"):
        found = run(config, steps=arguments.steps, op_s=arguments.op_time, to=arguments.to, profile=profile)
    say(_summary(found), arguments.json)
    if arguments.json:
        write_json(found.as_json(), arguments.json)
    if arguments.gantt:
        save_figure(found.plot(), arguments.gantt)
    if arguments.trace:
        found.measured.write_trace(arguments.trace)
    return 0


def _directory(name: str | None) -> Path | None:
    if name is None:
        return None
    path = Path(name).resolve()
    path.mkdir(exist_ok=True)
    return path


def _summary(found: Replay) -> str:
    """Predicted against measured, and what the difference is made of."""
    from pipesim.units import format_seconds

    predicted, measured = found.predicted.metrics, found.measured.metrics
    times = found.run.step_times_s
    rows = [["step time", format_seconds(found.predicted_s), format_seconds(found.measured_s)]]
    names = ("bubble_fraction", "bubble_overhead", "span_bubble_fraction")
    rows += [[name.replace("_", " "), f"{predicted[name]:.2%}", f"{measured[name]:.2%}"] for name in names]
    per_op = ", ".join(f"{kind.name} {format_seconds(extra)}" for kind, extra in found.run.overhead_s.items())
    return "\n".join(
        [
            f"One second of the config took {format_seconds(found.scale)}; median of {len(times)} steps, "
            f"{format_seconds(float(times.min()))} to {format_seconds(float(times.max()))}.",
            aligned(["", "predicted", "measured"], rows),
            f"PyTorch's overhead, from one stage alone: {per_op} per op, {format_seconds(found.overhead_s)} per step.",
            f"Measured without it is {found.error:+.2%} off the prediction.",
        ]
    )
