"""What one simulated step comes back as: metrics, timeline, memory, and the pictures of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipesim.costs.costs import Costs
from pipesim.ir.timeline import PICOSECONDS, Timeline

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Result:
    """One simulated step.

    ``metrics`` is the plain data of the result JSON; ``raw`` holds start and end of every op in integer
    picoseconds; ``costs`` is what the ops were priced with.
    """

    metrics: dict[str, Any]
    raw: Timeline
    costs: Costs

    @cached_property
    def timeline(self) -> pd.DataFrame:
        """One row per op and transfer: rank, resource, kind, stage, microbatch, route, start_s, end_s, pair."""
        from pipesim.metrics.frame import timeline_frame

        return timeline_frame(self.raw)

    @cached_property
    def memory(self) -> pd.DataFrame:
        """Step curves: rank, time_s, category, bytes; a value holds from its time on."""
        from pipesim.metrics.frame import memory_frame

        return memory_frame(self.raw, self.costs)

    @cached_property
    def idle(self) -> pd.DataFrame:
        """Why ranks idle: rank, start_s, end_s, cause, waiting_for, on_rank; one row per interval.

        Causes are warmup, dependency, exposed_p2p, exposed_collective, drain and synchronisation, as defined in
        `pipesim.metrics.idle`. Lengths per rank and cause add up to the time breakdown, where synchronisation
        counts as drain and collectives inside ops are exposed too.
        """
        from pipesim.metrics.frame import idle_frame

        return idle_frame(self.raw)

    @property
    def is_abstract(self) -> bool:
        """Whether costs are bare numbers, with no hardware in sight."""
        return self.metrics["memory"]["capacity_bytes"] is None

    @property
    def fits(self) -> bool:
        """Whether every rank stays within its memory; True where no capacity is known."""
        return self.metrics["memory"]["fits"] is not False

    @property
    def critical_path(self) -> list[tuple[int, float, float]]:
        """Unbroken work on the critical path in order of time: rank, start and end in seconds."""
        from pipesim.metrics.critical import critical_path

        rank = self.raw.graph.rank
        steps = (s for s in critical_path(self.raw) if not s.hop and rank[s.first] >= 0)
        return [(int(rank[s.first]), s.start / PICOSECONDS, s.end / PICOSECONDS) for s in steps]

    def gantt(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Gantt chart of the ranks; options as in `pipesim.report.gantt.gantt`.

        ``memory=True`` draws memory underneath, ``critical_path=True`` marks the critical path.
        """
        from pipesim.report.gantt import gantt

        if options.get("memory") is True:
            options |= {"memory": self.memory, "capacity_bytes": self.metrics["memory"]["capacity_bytes"]}
        if options.get("critical_path") is True:
            options["critical_path"] = self.critical_path
        options.setdefault("time_unit", "unit" if self.is_abstract else None)
        options.setdefault("memory_unit", "unit" if self.is_abstract else None)
        return gantt(self.timeline, ax, **options)

    def memory_plot(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Memory over the step; options as in `pipesim.report.memory.memory_plot`."""
        from pipesim.report.memory import memory_plot

        options.setdefault("capacity_bytes", self.metrics["memory"]["capacity_bytes"])
        options.setdefault("time_unit", "unit" if self.is_abstract else None)
        options.setdefault("memory_unit", "unit" if self.is_abstract else None)
        return memory_plot(self.memory, ax, **options)

    def summary(self) -> str:
        """The metrics as readable text."""
        from pipesim.report.text import summary

        return summary(self.metrics)

    def to_json(self) -> str:
        """The result JSON; the same config and seed give the same bytes."""
        return json.dumps(self.metrics, indent=2, allow_nan=False) + "\n"

    def save(self, directory: str | Path) -> list[Path]:
        """Write result.json, timeline.csv, gantt.svg, gantt.png and memory.png."""
        from pipesim.report.files import save

        return save(self, Path(directory))

    def write_html(self, path: str | Path) -> Path:
        """Write one HTML file that works offline: summary, timeline to zoom into, memory, and why ranks idle."""
        from pipesim.files import write_atomically
        from pipesim.report.page_html import page
        from pipesim.version import __version__

        target = Path(path)
        write_atomically(target, page(self, __version__).encode())
        return target

    def write_trace(self, path: str | Path) -> Path:
        """Write a Chrome trace (``.json`` or ``.json.gz``) that Perfetto opens."""
        from pipesim.interop.chrome import write_trace

        return write_trace(self.timeline, self.memory, path)

    def __repr__(self) -> str:
        bubble = self.metrics["bubble_fraction"]
        idle = "no flush" if bubble is None else f"bubble {bubble:.1%}"
        return f"<Result: step {self.metrics['step_time_s']:.6g} s, {idle}>"

    def _repr_html_(self) -> str:
        from pipesim.report.html import summary_html

        return summary_html(self.metrics)
