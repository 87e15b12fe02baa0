"""Where each rank's step time went: eight parts that sum to it exactly.

Idle time is named after its immediate cause: before a rank's first op it is warm-up, after its last one
drain; in between it is exposed communication for as long as the transfer or collective that ends the wait was
under way, and dependency (another rank was not done) before that. Collectives inside an op (tensor, context
or expert parallel) are taken out of compute and counted as exposed collectives.
"""

from __future__ import annotations

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
    for idle in gaps(timeline):
        _idle(timeline, idle, parts)
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


class Gaps(NamedTuple):
    """Idle time on the ranks' compute streams, rank by rank: picoseconds, and the node that ends each gap."""

    rank: NDArray[np.int64]
    node: NDArray[np.int64]
    begin: Picoseconds
    end: Picoseconds

    @property
    def length(self) -> Picoseconds:
        """How long each is."""
        return self.end - self.begin


def gaps(timeline: Timeline) -> tuple[Gaps, Gaps]:
    """All idle time of the compute streams: before ops, and from each rank's last op to the end of the step.

    The latter have the node at which the next rank begins.
    """
    graph, origin = timeline.graph, timeline.origin
    starts, count = graph.starts[: graph.ranks + 1], graph.compute_nodes
    some = np.flatnonzero(np.diff(starts))
    before = np.empty(count, np.int64)
    before[1:] = timeline.end[: max(count - 1, 0)]
    before[starts[some]] = origin
    node = np.flatnonzero(timeline.start[:count] != before)
    last = np.full(graph.ranks, origin)
    last[some] = timeline.end[starts[some + 1] - 1]
    return (
        Gaps(np.searchsorted(starts, node, side="right") - 1, node, before[node], timeline.start[node]),
        Gaps(np.arange(graph.ranks), starts[1:], last, np.full(graph.ranks, timeline.finish)),
    )


def _idle(timeline: Timeline, idle: Gaps, parts: dict[str, Picoseconds]) -> None:
    first, last = busy_bounds(timeline.graph)
    after = idle.node > last[idle.rank]
    before = ~after & (idle.node <= first[idle.rank])
    between = np.flatnonzero(~after & ~before)
    edge = binding_edges(timeline, idle.node[between])
    collective = after.copy()
    collective[between] = _ends_collective(timeline.graph, edge)
    covered = np.where(collective, _covered_by_rank(timeline, idle), 0)
    exposed = np.zeros(len(idle.rank), np.int64)
    exposed[between] = np.minimum(idle.length[between], _flight(timeline, edge))
    rest = idle.length - exposed - covered
    for name, amount in (
        ("warmup", np.where(before, rest, 0)),
        ("exposed_p2p", exposed),
        ("exposed_collective", covered),
        ("dependency", np.where(before | after, 0, rest)),
        ("drain", np.where(after, rest, 0)),
    ):
        np.add.at(parts[name], idle.rank, amount)


def _flight(timeline: Timeline, edge: NDArray[np.int64]) -> Picoseconds:
    """How long the messages of some dependencies were under way; zero for what is no message."""
    graph = timeline.graph
    travels = np.flatnonzero((edge >= 0) & (graph.dep_message[edge] != NO_MESSAGE)) if len(edge) else edge
    flight = np.zeros(len(edge), np.int64)
    flight[travels] = timeline.arrival_of(edge[travels]) - timeline.end[graph.dep_node[edge[travels]]]
    return flight


def _ends_collective(graph: OpGraph, edge: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which dependencies are on a data-parallel collective."""
    known = np.flatnonzero(edge >= 0)
    mask = np.zeros(len(edge), bool)
    mask[known] = is_any(graph.kind[graph.dep_node[edge[known]]], (Kind.UNSHARD, Kind.REDUCE_GRAD))
    return mask


def binding_edges(timeline: Timeline, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of ``nodes``, its dependency that arrived last, the first of them on a tie; -1 for none."""
    begin, stop = (timeline.graph.dep_starts[nodes + i].astype(np.int64) for i in (0, 1))
    binding, latest = np.full(len(nodes), -1), np.zeros(len(nodes), np.int64)
    left = np.flatnonzero(stop > begin)
    offset = 0
    while len(left):
        edge = begin[left] + offset
        arrival = timeline.arrival_of(edge)
        later = (arrival > latest[left]) | (offset == 0)
        binding[left[later]], latest[left[later]] = edge[later], arrival[later]
        offset += 1
        left = left[begin[left] + offset < stop[left]]
    return binding


def _covered_by_rank(timeline: Timeline, idle: Gaps) -> Picoseconds:
    """How much of each gap its rank's own collectives cover."""
    graph = timeline.graph
    covered = np.zeros(len(idle.rank), np.int64)
    for index, stream in enumerate(graph.streams):
        if stream.name == COLLECTIVE:
            nodes = slice(int(graph.starts[index]), int(graph.starts[index + 1]))
            mine = slice(*np.searchsorted(idle.rank, (stream.rank, stream.rank + 1)))
            intervals = timeline.start[nodes], timeline.end[nodes]
            covered[mine] = _covered(idle.begin[mine], idle.end[mine], intervals)
    return covered


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
    table[Kind.B] = table[Kind.I] + table[Kind.W]
    again = np.zeros_like(table)
    again[Kind.RECOMPUTE] = to_picoseconds(times.recompute_collective)
    for name, inside in (("recompute", again), ("compute", table)):
        if inside.any():
            amount = graph.per_rank(graph.lookup(inside)[: graph.compute_nodes])
            amount = np.minimum(amount, parts[name])
            parts[name] -= amount
            parts["exposed_collective"] += amount
