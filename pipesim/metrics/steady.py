"""A pipeline that never runs empty, while it is full: the time between its filling and its draining."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.graph import COMPUTE
from pipesim.ir.op import GRADIENT_KINDS, Kind
from pipesim.ir.timeline import Timeline
from pipesim.metrics.busy import BUSY_KINDS

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """From the end of one micro-batch to the end of another, ``microbatches`` later; in picoseconds."""

    begin: int
    end: int
    microbatches: int


@dataclass(frozen=True)
class Phases:
    """How a run without a flush goes; picoseconds from its start to its end.

    The pipeline is full once every rank has finished a backward, and as long as every rank has forwards left:
    ``fill`` is the time before, ``drain`` the time after. ``steady`` is the part in between over which the rate is
    measured: between ends of backwards of the first stage, so that a whole number of micro-batches lies in it, and
    a whole number of rounds (all that is in flight, and all that an update takes) if it is long enough for one.
    None if less than one micro-batch fits.
    """

    fill: int
    drain: int
    steady: Window | None
    microbatches_per_update: int


def phases(timeline: Timeline) -> Phases:
    """Fill, drain and the steady window of a timeline with optimizer steps between its micro-batches."""
    graph = timeline.graph
    gradient, forward = np.isin(graph.kind, GRADIENT_KINDS), graph.kind == Kind.F
    full = max(int(end.min()) for end in _ends_by_rank(timeline, gradient))
    spent = min(int(end.max()) for end in _ends_by_rank(timeline, forward))
    first = graph.stage == 0
    ends = np.sort(timeline.end[gradient & first])
    updates = int((first & (graph.kind == Kind.OPT)).sum())
    every = max(1, graph.microbatches // max(updates, 1))
    round_ = math.lcm(_in_flight(np.sort(timeline.start[forward & first]), ends), every)
    origin, finish = int(timeline.start.min()), int(timeline.end.max())
    window = _window(ends[(ends >= full) & (ends <= spent)], round_)
    return Phases(full - origin, finish - spent, window, every)


def utilisation(timeline: Timeline, window: Window, name: str = COMPUTE) -> list[float] | None:
    """Share of the window that each rank's stream of this name works; None if there are none of this name."""
    shares = []
    for index, stream in enumerate(timeline.graph.streams):
        if stream.name == name:
            shares.append(_work(timeline, index, window) / (window.end - window.begin))
    return shares or None


def _ends_by_rank(timeline: Timeline, chosen: NDArray[np.bool_]) -> list[Ints]:
    """Ends of the chosen nodes, rank by rank."""
    nodes = np.flatnonzero(chosen)
    rank = timeline.graph.rank[nodes]
    order = np.argsort(rank, kind="stable")
    cuts = np.flatnonzero(np.diff(rank[order])) + 1
    return np.split(timeline.end[nodes[order]], cuts)


def _in_flight(starts: Ints, ends: Ints) -> int:
    """Most micro-batches that are between these starts and ends at once."""
    before = np.searchsorted(ends, starts, side="right")
    return int((np.arange(len(starts)) + 1 - before).max(initial=1))


def _window(ends: Ints, round_: int) -> Window | None:
    """The latest whole rounds between these ends of micro-batches, or all of them where there is no whole round."""
    count = len(ends) - 1
    count = count // round_ * round_ or count
    if count < 1 or ends[-1] == ends[-1 - count]:
        return None
    return Window(int(ends[-1 - count]), int(ends[-1]), count)


def _work(timeline: Timeline, stream: int, window: Window) -> int:
    """Picoseconds of a stream's work that lie in the window."""
    mine = slice(int(timeline.graph.starts[stream]), int(timeline.graph.starts[stream + 1]))
    works = np.isin(timeline.graph.kind[mine], (*BUSY_KINDS, Kind.OPT, Kind.RECONSTRUCT))
    start = np.clip(timeline.start[mine][works], window.begin, window.end)
    end = np.clip(timeline.end[mine][works], window.begin, window.end)
    return int((end - start).sum())
