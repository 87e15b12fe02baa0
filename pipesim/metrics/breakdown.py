"""Where each rank's step time went: eight parts that sum to it exactly.

Idle time is named after its immediate cause: before a rank's first op it is warm-up, after its last one
drain; in between it is exposed communication for as long as the transfer or collective that ends the wait was
under way, and dependency (another rank was not done) before that. Collectives inside an op (tensor, context
or expert parallel) are taken out of compute and counted as exposed collectives.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import StageTimes
from pipesim.ir.graph import COLLECTIVE, NO_MESSAGE
from pipesim.ir.op import Kind
from pipesim.ir.timeline import Timeline, to_picoseconds
from pipesim.metrics.busy import BUSY_KINDS

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
_WORK = {"recompute": (Kind.RECOMPUTE,), "optimizer": (Kind.OPT, Kind.RECONSTRUCT)}

Picoseconds = NDArray[np.int64]


def breakdown(timeline: Timeline, times: StageTimes | None = None) -> dict[str, Picoseconds]:
    """Picoseconds per part, each of shape (P,); on every rank they sum to the step time.

    ``times`` tells how much of the ops is collective communication inside them; nothing when left out.
    """
    parts = {name: np.zeros(timeline.graph.ranks, np.int64) for name in PARTS}
    origin, finish = _bounds(timeline)
    collectives = _collective_intervals(timeline)
    for rank in range(timeline.graph.ranks):
        _work(timeline, rank, parts)
        _idle(timeline, rank, origin, finish, collectives.get(rank), parts)
    if times is not None:
        _take_out_collectives(timeline, times, parts)
    return parts


def _bounds(timeline: Timeline) -> tuple[int, int]:
    return (int(timeline.start.min()), int(timeline.end.max())) if len(timeline.start) else (0, 0)


def _nodes(timeline: Timeline, rank: int) -> slice:
    starts = timeline.graph.starts
    return slice(int(starts[rank]), int(starts[rank + 1]))


def _work(timeline: Timeline, rank: int, parts: dict[str, Picoseconds]) -> None:
    mine = _nodes(timeline, rank)
    kind, duration = timeline.graph.kind[mine], timeline.graph.duration[mine]
    total = int(duration.sum())
    for name, kinds in _WORK.items():
        amount = int(duration[np.isin(kind, kinds)].sum())
        parts[name][rank] += amount
        total -= amount
    parts["compute"][rank] += total


def _idle(
    timeline: Timeline,
    rank: int,
    origin: int,
    finish: int,
    collectives: tuple[Picoseconds, Picoseconds] | None,
    parts: dict[str, Picoseconds],
) -> None:
    graph, mine = timeline.graph, _nodes(timeline, rank)
    start, end, kind = timeline.start[mine], timeline.end[mine], graph.kind[mine]
    if len(start) == 0:
        parts["drain"][rank] += finish - origin
        return
    previous = np.concatenate([[origin], end[:-1]])
    gap = start - previous
    work = np.flatnonzero(np.isin(kind, BUSY_KINDS))
    first, last = (int(work[0]), int(work[-1])) if len(work) else (len(kind), -1)
    where = np.arange(len(kind))
    parts["warmup"][rank] += int(gap[where <= first].sum())
    _drain(gap, previous, start, where > last, collectives, rank, parts)
    _drain(np.array([finish - end[-1]]), end[-1:], np.array([finish]), np.array([True]), collectives, rank, parts)
    waits = np.flatnonzero((gap > 0) & (where > first) & (where <= last))
    _between(timeline, waits + mine.start, gap[waits], collectives, rank, parts)


def _drain(
    gap: Picoseconds,
    begin: Picoseconds,
    end: Picoseconds,
    chosen: NDArray[np.bool_],
    collectives: tuple[Picoseconds, Picoseconds] | None,
    rank: int,
    parts: dict[str, Picoseconds],
) -> None:
    """Idle after the last compute op: collective while the rank's own collectives run, else drain."""
    nodes = np.flatnonzero(chosen & (gap > 0))
    covered = _covered(begin[nodes], end[nodes], collectives)
    parts["exposed_collective"][rank] += int(covered.sum())
    parts["drain"][rank] += int((gap[nodes] - covered).sum())


def _between(
    timeline: Timeline,
    nodes: NDArray[np.int64],
    gap: Picoseconds,
    collectives: tuple[Picoseconds, Picoseconds] | None,
    rank: int,
    parts: dict[str, Picoseconds],
) -> None:
    """Idle between a rank's compute ops, by the dependency that arrived last."""
    if len(nodes) == 0:
        return
    graph = timeline.graph
    edge = binding_edges(timeline)[nodes]
    known = edge >= 0
    message = known & (graph.dep_message[edge] != NO_MESSAGE)
    flight = np.where(message, timeline.arrival[edge] - timeline.end[graph.dep_node[edge]], 0)
    exposed = np.minimum(gap, flight)
    collective = known & np.isin(graph.kind[graph.dep_node[edge]], (Kind.UNSHARD, Kind.REDUCE_GRAD))
    start = timeline.start[nodes]
    covered = np.where(collective, _covered(start - gap, start, collectives), 0)
    parts["exposed_p2p"][rank] += int(exposed.sum())
    parts["exposed_collective"][rank] += int(covered.sum())
    parts["dependency"][rank] += int((gap - exposed - covered).sum())


def binding_edges(timeline: Timeline) -> NDArray[np.int64]:
    """For every node, its dependency that arrived last (the first of them on a tie), -1 for none. Shape (n,)."""
    graph = timeline.graph
    binding = np.full(len(graph), -1, np.int64)
    counts = np.diff(graph.dep_starts)
    has = np.flatnonzero(counts)
    if len(has) == 0:
        return binding
    begin = graph.dep_starts[has]
    latest = np.maximum.reduceat(timeline.arrival, begin)
    edges = np.flatnonzero(timeline.arrival == np.repeat(latest, counts[has]))
    binding[has] = edges[np.searchsorted(edges, begin)]
    return binding


def _collective_intervals(timeline: Timeline) -> dict[int, tuple[Picoseconds, Picoseconds]]:
    """Start and end of every collective, by rank."""
    graph = timeline.graph
    found = {}
    for index, stream in enumerate(graph.streams):
        if stream.name == COLLECTIVE:
            mine = _nodes(timeline, index)
            found[stream.rank] = (timeline.start[mine], timeline.end[mine])
    return found


def _covered(begin: Picoseconds, end: Picoseconds, collectives: tuple[Picoseconds, Picoseconds] | None) -> Picoseconds:
    """How much of each interval [begin, end) the sorted, disjoint collectives cover."""
    if collectives is None or len(collectives[0]) == 0:
        return np.zeros(len(begin), np.int64)
    first, last = collectives
    before = np.concatenate([[0], np.cumsum(last - first)])

    def until(moment: Picoseconds) -> Picoseconds:
        index = np.searchsorted(first, moment, side="right")
        partial = np.maximum(0, last[index - 1] - moment)
        return before[index] - np.where(index > 0, partial, 0)

    return until(end) - until(begin)


def _take_out_collectives(timeline: Timeline, times: StageTimes, parts: dict[str, Picoseconds]) -> None:
    graph = timeline.graph
    table = np.zeros((len(Kind), len(times.forward)), np.int64)
    table[Kind.F] = to_picoseconds(times.forward_collective)
    table[Kind.I] = to_picoseconds(times.input_grad_collective)
    table[Kind.W] = to_picoseconds(times.weight_grad_collective)
    table[Kind.B] = table[Kind.I] + table[Kind.W]
    table[Kind.RECOMPUTE] = to_picoseconds(times.recompute_collective)
    if not table.any():
        return
    count = graph.compute_nodes
    inside = np.where(graph.stage[:count] >= 0, table[graph.kind[:count], graph.stage[:count]], 0)
    for name, chosen in (
        ("recompute", graph.kind[:count] == Kind.RECOMPUTE),
        ("compute", graph.kind[:count] <= Kind.B),
    ):
        amount = np.zeros(graph.ranks, np.int64)
        np.add.at(amount, graph.rank[:count], np.where(chosen, inside, 0))
        amount = np.minimum(amount, parts[name])
        parts[name] -= amount
        parts["exposed_collective"] += amount
