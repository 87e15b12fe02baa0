"""Adding streams, nodes and dependencies to a graph."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.graph import NO_MESSAGE, OpGraph, Stream
from pipesim.ir.op import Kind
from pipesim.ir.program import NO_STAGE

Column = NDArray[np.integer]


@dataclass
class Extension:
    """Nodes to append to ``graph``, stream by stream, and dependencies between any nodes."""

    graph: OpGraph
    streams: list[Stream] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    nodes: list[tuple[int, int, int]] = field(default_factory=list)
    deps: list[tuple[int, int, float]] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)

    def stream(self, rank: int, name: str) -> None:
        """Start a new stream; the nodes that follow belong to it."""
        self.streams.append(Stream(rank, name))
        self.sizes.append(0)

    def node(self, kind: Kind, stage: int = NO_STAGE, microbatch: int = NO_STAGE, factor: float = 1.0) -> int:
        """Append a node to the newest stream; its number in the extended graph."""
        self.nodes.append((int(kind), stage, microbatch))
        self.factors.append(factor)
        self.sizes[-1] += 1
        return len(self.graph) + len(self.nodes) - 1

    def wait(self, node: int, producer: int, fraction: float = 1.0) -> None:
        """Let ``node`` wait until ``fraction`` of ``producer`` is done."""
        self.deps.append((node, producer, fraction))

    def add_nodes(self, kind: Column, stage: Column, microbatch: Column) -> NDArray[np.int64]:
        """Append nodes to the newest stream; their numbers in the extended graph."""
        first = len(self.graph) + len(self.nodes)
        self.nodes.extend(zip(kind.tolist(), stage.tolist(), microbatch.tolist(), strict=True))
        self.factors.extend([1.0] * len(kind))
        self.sizes[-1] += len(kind)
        return first + np.arange(len(kind))

    def add_waits(self, nodes: Column, producers: Column, fractions: NDArray[np.float64] | None = None) -> None:
        """Let each node wait for its producer, or for a fraction of it."""
        shares = [1.0] * len(nodes) if fractions is None else fractions.tolist()
        self.deps.extend(zip(nodes.tolist(), producers.tolist(), shares, strict=True))

    def build(self) -> OpGraph:
        """The extended graph."""
        if not self.nodes and not self.deps:
            return self.graph
        graph, added = self.graph, np.array(self.nodes, np.int64).reshape(-1, 3)
        ends = graph.starts[-1] + np.cumsum(self.sizes, dtype=np.int64)
        return replace(
            _with_deps(graph, self.deps, len(graph) + len(added)),
            streams=[*graph.streams, *self.streams],
            starts=np.concatenate([graph.starts, ends]),
            kind=np.concatenate([graph.kind, added[:, 0].astype(np.int8)]),
            stage=np.concatenate([graph.stage, added[:, 1].astype(np.int32)]),
            microbatch=np.concatenate([graph.microbatch, added[:, 2].astype(np.int32)]),
            paired=np.concatenate([graph.paired, np.zeros(len(added), bool)]),
            duration=np.concatenate([graph.duration, np.zeros(len(added), np.int64)]),
            factor=self._factors(),
        )

    def _factors(self) -> NDArray[np.float64] | None:
        new = np.array(self.factors, np.float64)
        if self.graph.factor is None and bool((new == 1.0).all()):
            return None
        old = self.graph.factor if self.graph.factor is not None else np.ones(len(self.graph))
        return np.concatenate([old, new])


def _with_deps(graph: OpGraph, deps: list[tuple[int, int, float]], nodes: int) -> OpGraph:
    """The graph's dependency lists with more entries, still grouped by consumer, over ``nodes`` nodes."""
    old = np.repeat(np.arange(len(graph)), np.diff(graph.dep_starts))
    new = np.array(deps, np.float64).reshape(-1, 3)
    consumer = np.concatenate([old, new[:, 0].astype(np.int64)])
    order = np.argsort(consumer, kind="stable")
    fraction = graph.dep_fraction if graph.dep_fraction is not None else np.ones(len(old))
    filler = np.full(len(new), NO_MESSAGE, np.int32)
    return replace(
        graph,
        dep_starts=np.concatenate([[0], np.cumsum(np.bincount(consumer, minlength=nodes))]).astype(np.int32),
        dep_node=np.concatenate([graph.dep_node, new[:, 1].astype(np.int32)])[order],
        dep_fraction=np.concatenate([fraction, new[:, 2]])[order],
        dep_message=np.concatenate([graph.dep_message, filler])[order],
        dep_lag=np.zeros(len(consumer), np.int64),
    )
