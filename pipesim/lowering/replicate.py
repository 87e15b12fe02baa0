"""All data-parallel replicas in one graph, for when they differ: collectives then wait for the slowest of them.

Rank r of replica k becomes rank k P + r. A replica's micro-batches travel routes of their own, so a replicated graph
is an ordinary graph of P x R ranks, R times the routes and R times the micro-batches.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.graph import NO_MESSAGE, SHARED, OpGraph, Stream
from pipesim.ir.op import Kind, is_any
from pipesim.ir.placement import Placement
from pipesim.ir.program import NO_STAGE

Nodes = NDArray[np.int64]
MEETINGS = (Kind.REDUCE_GRAD, Kind.UNSHARD, Kind.BARRIER)
"""Ops for which all replicas meet."""


def replicate(graph: OpGraph, replicas: int) -> OpGraph:
    """Copies of a bound graph in which ops of the kinds in `MEETINGS` start on all ``replicas`` together.

    For each of these ops there is a BARRIER, on a shared stream of its own, that waits for what its copies would
    wait for; they wait for it. Bind first: the result cannot be bound.
    """
    copies = _Copies(graph, replicas)
    members = np.flatnonzero(is_any(graph.kind, MEETINGS))
    waits = copies.dependencies(members).followed_by(copies.meetings(members))
    extra = len(members)
    return OpGraph(
        placement=_placement(graph.placement, replicas),
        route_of=_numbered(graph.route_of, replicas, graph.placement.routes),
        streams=[*copies.streams(), *(Stream(-1, SHARED) for _ in range(extra))],
        starts=np.concatenate([copies.starts(), replicas * len(graph) + 1 + np.arange(extra)]),
        kind=np.append(copies.of(graph.kind), np.full(extra, Kind.BARRIER, np.int8)),
        stage=np.append(copies.of(graph.stage), np.full(extra, NO_STAGE, np.int32)),
        microbatch=np.append(copies.microbatches(), np.full(extra, NO_STAGE, np.int32)),
        paired=np.append(copies.of(graph.paired), np.zeros(extra, bool)),
        duration=np.append(copies.of(graph.duration), np.zeros(extra, np.int64)),
        dep_starts=np.concatenate([[0], np.cumsum(waits.counts)]).astype(np.int32),
        dep_node=waits.producer.astype(np.int32),
        dep_fraction=None,
        dep_message=waits.message,
        dep_lag=waits.lag,
    )


def slowed(graph: OpGraph, factors: NDArray[np.float64]) -> OpGraph:
    """A bound graph whose ranks' compute streams take ``factors`` (P,) times as long, to the nearest picosecond."""
    count, duration, lag = graph.compute_nodes, graph.duration.copy(), graph.dep_lag.copy()
    factor = factors[graph.rank[:count]]
    duration[:count] = np.rint(duration[:count] * factor)
    early = np.flatnonzero((lag < 0) & (graph.dep_node < count))
    lag[early] = np.rint(lag[early] * factor[graph.dep_node[early]])
    return graph.bound(duration, lag)


class _Dependencies(NamedTuple):
    """How many each node has; and of each its producer, message and lag, in the order of nodes."""

    counts: Nodes
    producer: Nodes
    message: NDArray[np.int32]
    lag: Nodes

    def followed_by(self, other: _Dependencies) -> _Dependencies:
        """Those of further nodes after these."""
        return _Dependencies(
            np.append(self.counts, other.counts),
            np.append(self.producer, other.producer),
            np.append(self.message, other.message),
            np.append(self.lag, other.lag),
        )


class _Copies:
    """Where copies go: as in every graph compute streams come first, those of all replicas; then the other streams."""

    def __init__(self, graph: OpGraph, replicas: int) -> None:
        self.graph, self.replicas = graph, replicas
        self._compute = graph.compute_nodes

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values per node, for the copies of all nodes."""
        return self._tiled(values, self._compute)

    def microbatches(self) -> NDArray[np.int32]:
        """Micro-batches of the copies; each replica has its own. What is no micro-batch stays as it is."""
        graph = self.graph
        known = self.of((graph.microbatch >= 0) & (graph.kind <= Kind.RECV_B))
        replica = np.append(*(self._replica(size) for size in (self._compute, len(graph) - self._compute)))
        moved: NDArray[np.int32] = self.of(graph.microbatch) + known * replica * np.int32(graph.microbatches)
        return moved

    def streams(self) -> list[Stream]:
        """Streams of the copies, in the order of their nodes."""
        ranks, streams = self.graph.ranks, self.graph.streams
        every = (
            (copy, s) for part in (streams[:ranks], streams[ranks:]) for copy in range(self.replicas) for s in part
        )
        return [Stream(s.rank + copy * ranks if s.rank >= 0 else -1, s.name) for copy, s in every]

    def starts(self) -> Nodes:
        """Where these streams begin, and where the last one ends."""
        return np.concatenate([[0], np.cumsum(self._tiled(np.diff(self.graph.starts), self.graph.ranks))])

    def dependencies(self, members: Nodes) -> _Dependencies:
        """Those of all copies; a copy of a member also waits for the member's barrier."""
        graph, last = self.graph, self.graph.dep_starts[members + 1]
        barrier = len(graph) + np.arange(len(members))
        producer = np.insert(graph.dep_node.astype(np.int64), last, barrier)
        cut = int(graph.dep_starts[self._compute])
        count = np.diff(graph.dep_starts).astype(np.int64)
        count[members] += 1
        return _Dependencies(
            self.of(count),
            np.append(*(self._places(part).ravel() for part in (producer[:cut], producer[cut:]))),
            self._tiled(np.insert(graph.dep_message, last, NO_MESSAGE), cut),
            self._tiled(np.insert(graph.dep_lag, last, 0), cut),
        )

    def meetings(self, members: Nodes) -> _Dependencies:
        """Those of the barriers: what each member waits for, the op before it on its stream included."""
        graph = self.graph
        first = np.isin(members, graph.starts)
        edges = [np.arange(*graph.dep_starts[m : m + 2]) for m in members]
        producers = [
            np.append(graph.dep_node[e], [] if head else [m - 1])
            for e, m, head in zip(edges, members, first, strict=True)
        ]
        lags = [np.append(graph.dep_lag[e], [] if head else [0]) for e, head in zip(edges, first, strict=True)]
        producer = self._places(_joined(producers)).T.ravel()
        count = np.array([len(p) * self.replicas for p in producers], np.int64)
        message = np.full(len(producer), NO_MESSAGE, np.int32)
        return _Dependencies(count, producer, message, np.repeat(_joined(lags), self.replicas))

    def _places(self, nodes: Nodes) -> Nodes:
        """Where the copies of some nodes are, shape (replicas, nodes); numbers beyond the graph are barriers."""
        size, compute, copy = len(self.graph), self._compute, np.arange(self.replicas)[:, None]
        others = self.replicas * compute + copy * (size - compute) + nodes - compute
        barriers = self.replicas * size + nodes - size
        return np.where(nodes < compute, copy * compute + nodes, np.where(nodes < size, others, barriers))

    def _tiled(self, values: NDArray[Any], cut: int) -> NDArray[Any]:
        return np.append(np.tile(values[:cut], self.replicas), np.tile(values[cut:], self.replicas))

    def _replica(self, size: int) -> NDArray[np.int32]:
        return np.repeat(np.arange(self.replicas, dtype=np.int32), size)


def _joined(parts: list[NDArray[Any]]) -> Nodes:
    return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)


def _placement(placement: Placement, replicas: int) -> Placement:
    rank_of = _numbered(placement.rank_of, replicas, placement.ranks)
    return replace(placement, ranks=placement.ranks * replicas, rank_of=rank_of, copies=placement.copies * replicas)


def _numbered(values: NDArray[np.int32], replicas: int, step: int) -> NDArray[np.int32]:
    """Copies one after the other along the first axis, each ``step`` higher than the one before."""
    return np.concatenate([values + np.int32(copy * step) for copy in range(replicas)])
