"""Steps with very many micro-batches from short ones: exact where their steady state is proven, else nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields

from pipesim.errors import ScheduleError
from pipesim.ir.graph import OpGraph
from pipesim.ir.timeline import Timeline
from pipesim.metrics.cycles import Growth, growth, split_step
from pipesim.metrics.summary import Summary
from pipesim.schedules.base import Schedule

_SHORTEST = 4
"""Micro-batches of the first attempt, in ranks; attempts double from there."""


@dataclass(frozen=True, eq=False)
class Extrapolation:
    """The summary of the whole step, the timeline of a short one, and how the one follows from the other."""

    summary: Summary
    timeline: Timeline
    microbatches: int
    period: int
    picoseconds: int

    def note(self) -> str:
        """What a reader of the result should know."""
        return (
            f"extrapolated from {self.microbatches} micro-batches, whose timeline is shown: "
            f"every {self.period} more take {self.picoseconds / 1e12:.9g} s"
        )


def extrapolate(
    schedule: Schedule,
    ranks: int,
    microbatches: int,
    graph_of: Callable[[int], OpGraph],
    run: Callable[[OpGraph], Timeline],
    summarize: Callable[[Timeline], Summary],
) -> Extrapolation | None:
    """The summary of a step that repeats itself, equal to that of a full evaluation.

    ``graph_of`` makes the bound graph for some micro-batches. None when no steady state is found within a quarter
    of the micro-batches: the step is then as well evaluated in full. None also for runs with updates in them.
    """
    size = _SHORTEST * ranks
    while 4 * size <= microbatches:
        for more in _periods(schedule, ranks):
            first = size + (microbatches - size) % more
            found = _steady(first, more, graph_of, run)
            if found is None:
                continue
            period = more * found.cycles
            start = first + more + (microbatches - first - more) % period
            lengths = (start, start + period, start + 2 * period)
            timelines = [run(graph_of(length)) for length in lengths]
            here, next_one, last = (summarize(timeline) for timeline in timelines)
            if here.plus(next_one, 2).same(last) and next_one.busy.step - here.busy.step == found.picoseconds:
                whole = here.plus(next_one, (microbatches - start) // period)
                return Extrapolation(whole, timelines[0], start, period, found.picoseconds)
        size *= 2
    return None


def _steady(
    first: int, more: int, graph_of: Callable[[int], OpGraph], run: Callable[[OpGraph], Timeline]
) -> Growth | None:
    """How a step grows with ``more`` micro-batches at a time, from ``first`` of them."""
    try:
        split = split_step(graph_of(first), graph_of(first + more))
    except ScheduleError:
        return None
    if split is None or split.graph.has_updates:
        return None
    return growth(split, run(split.graph))


def _periods(schedule: Schedule, ranks: int) -> Iterator[int]:
    """Numbers of micro-batches by which a schedule may repeat: small ones, fractions of the ranks, its options."""
    options = (getattr(schedule, field.name) for field in fields(schedule))
    return _different((1, 2, ranks // 2, ranks, 2 * ranks, *(value for value in options if type(value) is int)))


def _different(numbers: Iterable[int]) -> Iterator[int]:
    return iter(dict.fromkeys(number for number in numbers if number > 0))
