"""``pipesim trace``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from pipesim.cli.output import aligned, check_files, say, working, write_json, write_text
from pipesim.cli.run import save_figure

if TYPE_CHECKING:
    from pipesim.study.trace import Trace


def trace(arguments: argparse.Namespace) -> int:
    """Measure an observed run as if it had been simulated."""
    files = {"--json": arguments.json, "--gantt": arguments.gantt, "--profile": arguments.profile}
    check_files(files, arguments.file)
    from pipesim.study.trace import read_trace

    with working("reading"):
        found = read_trace(arguments.file)
        metrics = found.metrics(arguments.step)
    for note in found.observation.notes:
        print(f"note: {note}", file=sys.stderr)
    to_stdout = "-" if "-" in (arguments.json, arguments.profile) else None
    say(_summary(found, arguments.step, metrics), to_stdout)
    if arguments.json:
        write_json(found.as_json(arguments.step), arguments.json)
    if arguments.gantt:
        save_figure(found.gantt(step=arguments.step).figure, arguments.gantt)
    if arguments.profile:
        write_text(found.profile_csv(), arguments.profile)
    return 0


def _summary(found: Trace, step: int | None, metrics: dict[str, Any]) -> str:
    from pipesim.units import format_seconds

    steps = found.observation.steps
    chosen = found.median_step if step is None else step
    which = f"Step {chosen}" + (f" of {steps[0]} to {steps[-1]}" if len(steps) > 1 else "")
    lines = [f"{which}: {format_seconds(metrics['step_time_s'])}"]
    lines += [
        f"{name.replace('_', ' ')}: {metrics[name]:.2%}"
        for name in ("bubble_fraction", "bubble_overhead", "span_bubble_fraction")
    ]
    lines.append(
        aligned(["rank", "busy", "bubble fraction", *_where(metrics)], [_row(rank) for rank in metrics["ranks"]])
    )
    if "time_breakdown" not in metrics:
        lines.append(
            "Not one whole training step on all ranks and by one route, so what the bubbles wait for is not known."
        )
    lines.append("Profile, medians:")
    lines.append(_profile(found))
    return "\n".join(lines)


_IDLE = ("warmup", "dependency", "drain")


def _where(metrics: dict[str, Any]) -> list[str]:
    return list(_IDLE) if "time_breakdown" in metrics else []


def _row(rank: dict[str, Any]) -> list[str]:
    from pipesim.units import format_seconds

    parts = rank.get("time_breakdown", {})
    idle = [format_seconds(parts[name]) for name in _IDLE] if parts else []
    return [str(rank["rank"]), format_seconds(rank["busy_s"]), f"{rank['bubble_fraction']:.2%}", *idle]


def _profile(found: Trace) -> str:
    from pipesim.units import format_seconds

    table = found.profile
    names = [str(name).removesuffix("_s").replace("_", " ") for name in table.columns]
    rows = [[str(int(row[0])), *(format_seconds(value) for value in row[1:])] for row in table.itertuples(index=False)]
    return aligned(names, rows)
