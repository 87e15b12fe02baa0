"""A whole result in a directory: numbers, timeline and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipesim.errors import PipesimError
from pipesim.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd


RESULT, TIMELINE, MEMORY = "result.json", "timeline.csv", "memory.png"
GANTT = ("gantt.svg", "gantt.png")
NAMES = (RESULT, TIMELINE, *GANTT, MEMORY)
"""The files of a saved result."""


class Savable(Protocol):
    """What is needed of a result."""

    @property
    def metrics(self) -> Mapping[str, Any]: ...
    @property
    def timeline(self) -> pd.DataFrame: ...
    @property
    def memory(self) -> pd.DataFrame: ...
    def to_json(self) -> str: ...


def save(result: Savable, directory: Path) -> list[Path]:
    """Write result.json, timeline.csv, gantt.svg, gantt.png and memory.png; the directory is made if need be.

    Each file is whole or not there, and the same for the same result.

    Raises:
        PipesimError: the directory or a file cannot be written.
    """
    from pipesim.report import figures
    from pipesim.report.gantt import gantt
    from pipesim.report.memory import memory_plot
    from pipesim.report.text import time_unit

    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PipesimError(f"{directory}: cannot be made: {error.strerror or error}") from error
    unit = time_unit(result.metrics)
    capacity = (result.metrics.get("memory") or {}).get("capacity_bytes")
    result_file, timeline_file = directory / RESULT, directory / TIMELINE
    write_atomically(result_file, result.to_json().encode())
    write_atomically(timeline_file, result.timeline.to_csv(index=False, lineterminator="\n").encode())
    chart = figures.root_figure(gantt(result.timeline, time_unit=unit))
    plot = figures.root_figure(memory_plot(result.memory, capacity_bytes=capacity, time_unit=unit, memory_unit=unit))
    pictures = [figures.save(chart, directory / name) for name in GANTT]
    return [result_file, timeline_file, *pictures, figures.save(plot, directory / MEMORY)]
