"""Where each rank's step time went: eight parts that sum to it exactly.

Idle time is named after its immediate cause: before a rank's first op it is warm-up, after its last one
drain; in between it is exposed communication for as long as the transfer or collective that ends the wait was
under way, and dependency (another rank was not done) before that. Collectives inside an op (tensor, context
or expert parallel) are taken out of compute and counted as exposed collectives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import StageTimes
from pipesim.ir.graph import COLLECTIVE, NO_MESSAGE, OpGraph
from pipesim.ir.op import Kind, is_any
from pipesim.ir.timeline import Timeline, to_picoseconds
from pipesim.metrics.busy import busy_bounds

PARTS = (
    "compute",
    "recompute",
    "exposed_p2p",
    "exposed_collective",
    "warmup",
    "dependency",
    "drain",
    "optimizer",
)

Picoseconds = NDArray[np.int64]
Intervals = tuple[Picoseconds, Picoseconds]


def breakdown(timeline: Timeline, times: StageTimes | None = None) -> dict[str, Picoseconds]:
    """Picoseconds per part, each of shape (P,); on every rank they sum to the step time.

    ``times`` tells how much of the ops is collective communication inside them; nothing when left out.
    """
    parts = {name: np.zeros(timeline.graph.ranks, np.int64) for name in PARTS}
    _work(timeline.graph, parts)
    _idle(timeline, parts)
    if times is not None:
        _take_out_collectives(timeline.graph, times, parts)
    return parts


def _work(graph: OpGraph, parts: dict[str, Picoseconds]) -> None:
    count = graph.compute_nodes
    kind, duration = graph.kind[:count], graph.duration[:count]
    parts["compute"] += graph.per_rank(duration)
    for name, what in (("recompute", Kind.RECOMPUTE), ("optimizer", Kind.OPT), ("optimizer", Kind.RECONSTRUCT)):
        chosen = kind == what
        if chosen.any():
            amount = graph.per_rank(duration * chosen)
            parts[name] += amount
            parts["compute"] -= amount


class Phases(NamedTuple):
    """Where each rank's idle moments are among all: ``[begin, first)`` lie before its first busy op,
    ``[first, last)`` between its first and last one, ``[last, end)`` after it. Arrays of shape (P,)."""

    begin: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    end: NDArray[np.int64]


def _phases(timeline: Timeline) -> Phases:
    graph, waits = timeline.graph, timeline.waits
    first, last = busy_bounds(graph)
    begin, end = (waits.searchsorted(graph.starts[i : graph.ranks + i]) for i in (0, 1))
    after = np.maximum(begin, waits.searchsorted(last, side="right"))
    return Phases(begin, np.minimum(after, waits.searchsorted(first, side="right")), after, end)


def _idle(timeline: Timeline, parts: dict[str, Picoseconds]) -> None:
    phases, nodes = _phases(timeline), timeline.waits
    length, edge = timeline.gap[nodes], timeline.binding
    exposed = np.minimum(length, _flight(timeline, edge))
    parts["warmup"] += _sums(length, phases.begin, phases.first)
    parts["exposed_p2p"] += _sums(exposed, phases.first, phases.last)
    parts["dependency"] += _sums(length, phases.first, phases.last) - parts["exposed_p2p"]
    parts["drain"] += _sums(length, phases.last, phases.end)
    parts["drain"] += timeline.finish - _last_ends(timeline)
    for rank, intervals in _collectives(timeline):
        _during_collectives(timeline, rank, phases, edge, intervals, parts)


def _sums(values: Picoseconds, first: NDArray[np.int64], last: NDArray[np.int64]) -> Picoseconds:
    """Sums of ``values[first[i]:last[i]]``."""
    until = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=until[1:])
    return until[last] - until[first]


def _flight(timeline: Timeline, edge: NDArray[np.int64]) -> Picoseconds:
    """How long the messages of some dependencies were under way; zero for what is no message."""
    graph = timeline.graph
    if len(graph.dep_node) == 0:
        return np.zeros(len(edge), np.int64)
    flight = timeline.arrival_of(edge) - timeline.end[graph.dep_node[edge]]
    flight[(edge < 0) | (graph.dep_message[edge] == NO_MESSAGE)] = 0
    return flight


def _last_ends(timeline: Timeline) -> Picoseconds:
    """End of each rank's last op; the step's start on a rank without any."""
    starts = timeline.graph.starts[: timeline.graph.ranks + 1]
    some = np.flatnonzero(np.diff(starts))
    last = np.full(timeline.graph.ranks, timeline.origin)
    last[some] = timeline.end[starts[some + 1] - 1]
    return last


def _collectives(timeline: Timeline) -> Iterator[tuple[int, Intervals]]:
    """Start and end of every collective, by rank."""
    graph = timeline.graph
    for index, stream in enumerate(graph.streams):
        if stream.name == COLLECTIVE:
            nodes = slice(int(graph.starts[index]), int(graph.starts[index + 1]))
            yield stream.rank, (timeline.end[nodes] - graph.duration[nodes], timeline.end[nodes])


def _during_collectives(
    timeline: Timeline,
    rank: int,
    phases: Phases,
    edge: NDArray[np.int64],
    intervals: Intervals,
    parts: dict[str, Picoseconds],
) -> None:
    """Idle time while a rank's own collectives run: after its last busy op, and where it waits for one of them."""
    begin, middle, end = int(phases.first[rank]), int(phases.last[rank]), int(phases.end[rank])
    between = begin + np.flatnonzero(_is_collective(timeline.graph, edge[begin:middle]))
    after = np.arange(middle, end)
    finish = np.array([timeline.finish])
    tail = _covered(_last_ends(timeline)[rank : rank + 1], finish, intervals).sum()
    for name, chosen, more in (("dependency", between, 0), ("drain", after, tail)):
        node = timeline.waits[chosen]
        start = timeline.end[node] - timeline.graph.duration[node]
        covered = more + _covered(start - timeline.gap[node], start, intervals).sum()
        parts["exposed_collective"][rank] += covered
        parts[name][rank] -= covered


def _is_collective(graph: OpGraph, edge: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of some dependencies (-1 for none) are on a data-parallel collective."""
    producer = graph.dep_node[edge] if len(graph.dep_node) else edge
    return (edge >= 0) & is_any(graph.kind[producer], (Kind.UNSHARD, Kind.REDUCE_GRAD))


def _covered(begin: Picoseconds, end: Picoseconds, intervals: Intervals) -> Picoseconds:
    """How much of each interval [begin, end) the sorted, disjoint ``intervals`` cover."""
    first, last = intervals
    if len(first) == 0:
        return np.zeros(len(begin), np.int64)
    before = np.concatenate([[0], np.cumsum(last - first)])

    def until(moment: Picoseconds) -> Picoseconds:
        index = np.searchsorted(first, moment, side="right")
        partial = np.maximum(0, last[index - 1] - moment)
        return before[index] - np.where(index > 0, partial, 0)

    return until(end) - until(begin)


def _take_out_collectives(graph: OpGraph, times: StageTimes, parts: dict[str, Picoseconds]) -> None:
    table = np.zeros((len(Kind), len(times.forward)), np.int64)
    table[Kind.F] = to_picoseconds(times.forward_collective)
    table[Kind.I] = to_picoseconds(times.input_grad_collective)
    table[Kind.W] = to_picoseconds(times.weight_grad_collective)
    table[Kind.B] = table[Kind.I] + table[Kind.W] - to_picoseconds(times.overlap_collective)
    again = np.zeros_like(table)
    again[Kind.RECOMPUTE] = to_picoseconds(times.recompute_collective)
    for name, inside in (("recompute", again), ("compute", table)):
        if inside.any():
            amount = graph.per_rank(graph.lookup(inside)[: graph.compute_nodes])
            amount = np.minimum(amount, parts[name])
            parts[name] -= amount
            parts["exposed_collective"] += amount
