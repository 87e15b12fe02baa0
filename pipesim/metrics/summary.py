"""What one step comes to, in integers: everything that is reported, before it is turned into seconds and shares."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import Costs
from pipesim.ir.timeline import Timeline
from pipesim.metrics import memory
from pipesim.metrics.breakdown import breakdown
from pipesim.metrics.busy import Busy, measure
from pipesim.metrics.critical import amounts, critical_path


@dataclass(frozen=True, eq=False)
class Summary:
    """``parts``: `breakdown`. ``path``: picoseconds on the critical path per op kind. The rest as its makers say."""

    busy: Busy
    parts: dict[str, NDArray[np.int64]]
    peak_in_flight: NDArray[np.float64]
    resident: memory.Resident
    peaks: memory.Peak
    path: dict[str, int]

    def plus(self, step: Summary, times: int) -> Summary:
        """What lies ``times`` steps ahead when all integers grow as from this summary to ``step``; floats stay."""
        ahead: Summary = _ahead(self, step, times)
        return ahead

    def same(self, other: Summary) -> bool:
        """Whether everything is equal."""
        return _same(self, other)


def summarize(timeline: Timeline, costs: Costs) -> Summary:
    """All that is reported of a timeline."""
    fixed, peaks = memory.measure(timeline, costs)
    return Summary(
        busy=measure(timeline),
        parts=breakdown(timeline, costs.times, costs.variants),
        peak_in_flight=memory.in_flight(timeline.graph),
        resident=fixed,
        peaks=peaks,
        path=amounts(timeline, critical_path(timeline)),
    )


def _ahead(first: Any, second: Any, times: int) -> Any:
    if is_dataclass(first) and not isinstance(first, type):
        names = [f.name for f in fields(first)]
        return replace(first, **{name: _ahead(getattr(first, name), getattr(second, name), times) for name in names})
    if isinstance(first, dict):
        return {name: _ahead(first.get(name, 0), second[name], times) for name in second}
    if isinstance(first, np.ndarray) and first.dtype.kind == "f":
        return second
    return first + times * (second - first)


def _same(first: Any, second: Any) -> bool:
    if is_dataclass(first):
        return all(_same(getattr(first, f.name), getattr(second, f.name)) for f in fields(first))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[name], second[name]) for name in first)
    return bool(np.array_equal(first, second))
