"""Steady state: whether a step with more micro-batches is the same step with more of the same in its middle.

A step is split on every stream into a head, one cycle and a tail; the next shorter step is its head and its tail.
If the last ops of head and cycle run exactly one growth later than some cycles before, and no later op looks back
beyond them, then so does every cycle that could be added, by induction, and the tail with it: times are max-plus
linear in the times that they wait for (Baccelli, Cohen, Olsder and Quadrat, Synchronization and Linearity, Wiley
1992, chapter 3, on cyclicity). What the induction takes for granted is that the schedule goes on as it did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.graph import OpGraph
from pipesim.ir.op import Kind
from pipesim.ir.timeline import Timeline

Nodes = NDArray[np.int64]
HEAD, CYCLE, TAIL = 0, 1, 2


class Growth(NamedTuple):
    """The step takes ``picoseconds`` longer with every ``cycles`` cycles more."""

    cycles: int
    picoseconds: int


@dataclass(frozen=True, eq=False)
class Split:
    """A graph's streams in three: per stream, nodes in the ``head`` and in one cycle (``length``), shape (streams,).

    Per node, shape (n,): its ``region``, its ``label`` (what it is: kind, stage, and which micro-batch of its route)
    and the ``shift`` of its label from one cycle to the next.
    """

    graph: OpGraph
    head: Nodes
    length: Nodes
    region: NDArray[np.int8]
    label: Nodes
    shift: Nodes


def split_step(shorter: OpGraph, longer: OpGraph) -> Split | None:
    """The longer step, split where it has one cycle more than the shorter; None where it differs in more."""
    length = np.diff(longer.starts) - np.diff(shorter.starts)
    if len(shorter.streams) != len(longer.streams) or (length < 0).any() or not length.any():
        return None
    ours, theirs = _labels(longer, longer.microbatches), _labels(shorter, longer.microbatches)
    head, region = _cut(longer, _common(longer, ours, shorter, theirs), length)
    split = Split(longer, head, length, region, ours, _shifts(shorter, longer))
    return split if _same_but_the_cycle(shorter, theirs, split) else None


def growth(split: Split, timeline: Timeline) -> Growth | None:
    """How the step grows with further cycles; None where the timeline does not prove it. For an ideal network."""
    reach = _reach(split)
    if reach is None or not _tail_waits_for_the_cycle(split, timeline):
        return None
    now = _window(split, reach)
    length = split.length[split.graph.stream]
    room = (_position(split.graph)[now] // length[now]).min()
    if room < 1 or not _same_ops(split, now, now - length[now]):
        return None
    for cycles in range(1, int(room) + 1):
        later = timeline.end[now] - timeline.end[now - cycles * length[now]]
        if (later == later[0]).all():
            return Growth(cycles, int(later[0]))
    return None


def _labels(graph: OpGraph, microbatches: int) -> Nodes:
    route, index = _in_route(graph)
    label = (graph.kind * np.int64(graph.placement.stages + 1) + graph.stage) * graph.placement.routes + route
    return label * (microbatches + 1) + index


def _in_route(graph: OpGraph) -> tuple[Nodes, Nodes]:
    """Route of every node's micro-batch and its number among those of the route; for others, 0 and what is there."""
    number = np.zeros(graph.microbatches, np.int64)
    for route in range(graph.placement.routes):
        mine = np.flatnonzero(graph.route_of == route)
        number[mine] = np.arange(len(mine))
    known = (graph.microbatch >= 0) & (graph.kind <= Kind.RECV_B)
    return (
        np.where(known, graph.route_of[graph.microbatch], 0).astype(np.int64),
        np.where(known, number[graph.microbatch], graph.microbatch),
    )


def _shifts(shorter: OpGraph, longer: OpGraph) -> Nodes:
    routes = longer.placement.routes
    more = np.bincount(longer.route_of, minlength=routes) - np.bincount(shorter.route_of, minlength=routes)
    known = (longer.microbatch >= 0) & (longer.kind <= Kind.RECV_B)
    return np.where(known, more[longer.route_of[longer.microbatch]], 0)


def _common(longer: OpGraph, ours: Nodes, shorter: OpGraph, theirs: Nodes) -> Nodes:
    """How many ops both steps begin with, per stream."""
    head = np.diff(shorter.starts)
    for stream, count in enumerate(head.tolist()):
        here, there = int(longer.starts[stream]), int(shorter.starts[stream])
        differs = np.flatnonzero(ours[here : here + count] != theirs[there : there + count])
        head[stream] = differs[0] if len(differs) else count
    return head


def _position(graph: OpGraph) -> Nodes:
    """Every node's place on its stream."""
    return np.arange(len(graph)) - graph.starts[graph.stream]


def _consumers(graph: OpGraph) -> Nodes:
    return np.repeat(np.arange(len(graph)), np.diff(graph.dep_starts))


def _cut(graph: OpGraph, common: Nodes, length: Nodes) -> tuple[Nodes, NDArray[np.int8]]:
    """Heads so short that nothing in them waits for what comes later, and the region of every node.

    A stream without a cycle has its tail where that happens.
    """
    head = common.copy()
    stream, position, consumer = graph.stream, _position(graph), _consumers(graph)
    while True:
        region = (position >= head[stream]).astype(np.int8) + (position >= (head + length)[stream])
        waits = consumer[(region[consumer] == HEAD) & (region[graph.dep_node] != HEAD)]
        if len(waits) == 0:
            return head, region
        np.minimum.at(head, stream[waits], position[waits])


def _same_but_the_cycle(shorter: OpGraph, theirs: Nodes, split: Split) -> bool:
    """Whether head and tail are the shorter step, each op with its dependencies, lags and duration."""
    longer, region = split.graph, split.region
    kept = np.flatnonzero(region != CYCLE)
    if len(kept) != len(shorter) or (longer.duration[kept] != shorter.duration).any():
        return False
    tail = region[kept] == TAIL
    if (split.label[kept] - np.where(tail, split.shift[kept], 0) != theirs).any():
        return False
    if (np.diff(longer.dep_starts)[kept] != np.diff(shorter.dep_starts)).any():
        return False
    edges = np.flatnonzero(region[_consumers(longer)] != CYCLE)
    waits, expected = longer.dep_node[edges], kept[shorter.dep_node]
    moved = tail[_consumers(shorter)] & (region[expected] == HEAD)
    expected = expected + np.where(moved, split.length[longer.stream[expected]], 0)
    return bool((waits == expected).all() and (longer.dep_lag[edges] == shorter.dep_lag).all())


def _reach(split: Split) -> int | None:
    """Cycles before the tail that cycle and tail look back to; None for more than cycles, or for the tail."""
    graph, region = split.graph, split.region
    consumer, producer = _consumers(graph), graph.dep_node
    later = region[consumer] != HEAD
    if (region[producer] > region[consumer]).any():
        return None
    back = np.flatnonzero(later & (region[producer] == HEAD))
    stream = graph.stream[producer[back]]
    if (split.length[stream] == 0).any():
        return None
    distance = split.head[stream] - _position(graph)[producer[back]]
    return 1 + int((-(-distance // split.length[stream])).max(initial=0))


def _window(split: Split, reach: int) -> Nodes:
    """Nodes of the cycle and of the ``reach`` cycles before it."""
    graph, position = split.graph, _position(split.graph)
    end = split.head + split.length
    begin = split.head - reach * split.length
    stream = graph.stream
    return np.flatnonzero((position >= begin[stream]) & (position < end[stream]) & (split.length[stream] > 0))


def _same_ops(split: Split, now: Nodes, before: Nodes) -> bool:
    """Whether ops are those of a cycle before, with the dependencies, lags and durations of a cycle before."""
    graph = split.graph
    count = np.diff(graph.dep_starts)
    if (split.label[now] - split.shift[now] != split.label[before]).any() or (count[now] != count[before]).any():
        return False
    here, there = _edges(graph, now), _edges(graph, before)
    moved = graph.dep_node[here] - split.length[graph.stream[graph.dep_node[here]]]
    return bool(
        (graph.duration[now] == graph.duration[before]).all()
        and (moved == graph.dep_node[there]).all()
        and (graph.dep_lag[here] == graph.dep_lag[there]).all()
    )


def _edges(graph: OpGraph, nodes: Nodes) -> Nodes:
    """All dependencies of some nodes, node by node."""
    count = np.diff(graph.dep_starts)[nodes]
    first = np.repeat(graph.dep_starts[nodes] - np.cumsum(count) + count, count)
    return first + np.arange(len(first))


def _tail_waits_for_the_cycle(split: Split, timeline: Timeline) -> bool:
    """Whether tails of streams without a cycle start when what they wait for arrives, not when their head ends."""
    graph = split.graph
    for stream in np.flatnonzero(split.length == 0).tolist():
        nodes = slice(int(graph.starts[stream]), int(graph.starts[stream + 1]))
        tail = np.flatnonzero(split.region[nodes] == TAIL)
        if len(tail):
            first = nodes.start + int(tail[0])
            edges = slice(int(graph.dep_starts[first]), int(graph.dep_starts[first + 1]))
            if timeline.arrival_of(edges).max(initial=-1) != timeline.end[first] - graph.duration[first]:
                return False
    return True
