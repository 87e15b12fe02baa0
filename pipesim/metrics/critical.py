"""The critical path: the chain of ops and transfers without slack that ends the step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    arrives at ``first`` through dependency ``edge``. The last op may go on beyond ``end``: part of it was enough
    for what comes next.
    """

    first: int
    last: int
    start: int
    end: int
    edge: int = -1

    @property
    def hop(self) -> bool:
        """Whether it is a transfer."""
        return self.edge >= 0


def critical_path(timeline: Timeline) -> list[Segment]:
    """Segments from the step's start to its end, without gaps.

    Where several chains are tied, the op before on the same stream is preferred, then the first dependency.
    """
    return [s for s in _backwards(timeline) if s.end > s.start][::-1]


def critical_chain(timeline: Timeline) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The critical path as the nodes and the dependencies whose durations and lags add up to it.

    On an ideal network their sum is the step time, and under any other durations a lower bound of it.
    """
    segments = list(_backwards(timeline))
    nodes = [np.arange(s.first, s.last + 1) for s in segments if not s.hop]
    edges = np.array([s.edge for s in segments if s.hop], np.int64)
    return np.concatenate([edges[:0], *nodes]), edges


def _backwards(timeline: Timeline) -> Iterator[Segment]:
    if len(timeline.end) == 0:
        return
    graph, waits, end = timeline.graph, timeline.waits, timeline.end
    node, moment = int(end.argmax()), timeline.finish
    while True:
        head = int(graph.starts[graph.starts.searchsorted(node, side="right") - 1])
        wait = int(waits.searchsorted(node, side="right")) - 1
        first = max(head, int(waits[wait])) if wait >= 0 else head
        start = int(end[first]) - int(graph.duration[first])
        yield Segment(first, node, start, moment)
        edge = int(timeline.binding[wait]) if start > timeline.origin else -1
        if edge < 0 or int(timeline.arrival_of(edge)) != start:
            return
        node = int(graph.dep_node[edge])
        moment = int(end[node])
        if graph.dep_message[edge] == NO_MESSAGE:
            moment = min(start, moment)
        yield Segment(first, first, moment, start, edge)


def amounts(timeline: Timeline, path: Sequence[Segment]) -> dict[str, int]:
    """Picoseconds per op kind on the path, and `P2P` for transfers; without kinds that take no time there."""
    kind, duration = timeline.graph.kind, timeline.graph.duration
    total = np.zeros(len(Kind), np.int64)
    nodes = np.flatnonzero(on_path(timeline, path))
    np.add.at(total, kind[nodes], duration[nodes])
    for segment in path:
        if not segment.hop:
            total[kind[segment.last]] -= timeline.end[segment.last] - segment.end
    found = {k.name: int(total[k]) for k in Kind if total[k]}
    if hops := sum(s.end - s.start for s in path if s.hop):
        found[P2P] = hops
    return found


def shares(amounts: Mapping[str, int], step: int) -> dict[str, float]:
    """Share of the step time per op kind, largest first, names in alphabetical order on ties."""
    ordered = sorted(amounts.items(), key=lambda item: (-item[1], item[0]))
    return {name: amount / step for name, amount in ordered} if step else {}


def on_path(timeline: Timeline, path: Sequence[Segment]) -> NDArray[np.bool_]:
    """Mask over nodes: which lie on the path as ops. Shape (n,)."""
    mask = np.zeros(len(timeline.end), bool)
    for segment in path:
        if not segment.hop:
            mask[segment.first : segment.last + 1] = True
    return mask
