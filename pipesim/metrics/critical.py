"""The critical path: the chain of ops and transfers without slack that ends the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.graph import NO_MESSAGE
from pipesim.ir.op import Kind
from pipesim.ir.timeline import Timeline

P2P = "p2p"


class Segment(NamedTuple):
    """A piece of the critical path, in picoseconds.

    Ops ``first..last`` of one stream that follow each other without a gap; or, with ``hop``, the transfer that
    arrives at ``first``. The last op may go on beyond ``end``: part of it was enough for what comes next.
    """

    first: int
    last: int
    start: int
    end: int
    hop: bool = False


def critical_path(timeline: Timeline) -> list[Segment]:
    """Segments from the step's start to its end, without gaps.

    Where several chains are tied, the op before on the same stream is preferred, then the first dependency.
    """
    return [s for s in _backwards(timeline) if s.end > s.start][::-1]


def _backwards(timeline: Timeline) -> Iterator[Segment]:
    if len(timeline.end) == 0:
        return
    graph, origin = timeline.graph, timeline.origin
    node, moment = int(timeline.end.argmax()), timeline.finish
    while True:
        first = _without_gap(timeline, node)
        start = int(timeline.end[first] - graph.duration[first])
        yield Segment(first, node, start, moment)
        edge = binding_edge(timeline, first) if start > origin else None
        if edge is None or edge.arrival != start:
            return
        node = int(graph.dep_node[edge.number])
        done = int(timeline.end[node])
        moment = done if graph.dep_message[edge.number] != NO_MESSAGE else min(start, done)
        yield Segment(first, first, moment, start, hop=True)


def _without_gap(timeline: Timeline, node: int) -> int:
    """The first of the ops that lead to ``node`` on its stream without idle time between them."""
    head = timeline.graph.starts[timeline.graph.starts.searchsorted(node, side="right") - 1]
    waits = timeline.waits
    place = int(waits.searchsorted(node, side="right")) - 1
    return int(max(head, waits[place])) if place >= 0 else int(head)


class Edge(NamedTuple):
    """A dependency's number, and when it arrived."""

    number: int
    arrival: int


def binding_edge(timeline: Timeline, node: int) -> Edge | None:
    """The dependency of a node that arrived last, the first of them on a tie."""
    first, last = (int(i) for i in timeline.graph.dep_starts[node : node + 2])
    arrivals = timeline.arrival_of(slice(first, last)).tolist()
    return max((Edge(first + i, a) for i, a in enumerate(arrivals)), key=_arrival, default=None)


def _arrival(edge: Edge) -> int:
    return edge.arrival


def shares(timeline: Timeline, path: Sequence[Segment]) -> dict[str, float]:
    """Share of the step time per op kind on the path, largest first, names in alphabetical order on ties."""
    kind, duration = timeline.graph.kind, timeline.graph.duration
    total = np.zeros(len(Kind), np.int64)
    nodes = np.flatnonzero(on_path(timeline, path))
    np.add.at(total, kind[nodes], duration[nodes])
    for segment in path:
        if not segment.hop:
            total[kind[segment.last]] -= timeline.end[segment.last] - segment.end
    amounts = {k.name: int(total[k]) for k in Kind if total[k]}
    if hops := sum(s.end - s.start for s in path if s.hop):
        amounts[P2P] = hops
    step = timeline.makespan
    ordered = sorted(amounts.items(), key=lambda item: (-item[1], item[0]))
    return {name: amount / step for name, amount in ordered} if step else {}


def on_path(timeline: Timeline, path: Sequence[Segment]) -> NDArray[np.bool_]:
    """Mask over nodes: which lie on the path as ops. Shape (n,)."""
    mask = np.zeros(len(timeline.end), bool)
    for segment in path:
        if not segment.hop:
            mask[segment.first : segment.last + 1] = True
    return mask
