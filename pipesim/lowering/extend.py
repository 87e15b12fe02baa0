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
class NodeColumns:
    """Nodes to append: kind, stage and micro-batch (or bucket) of each, and the factor on its duration."""

    kind: list[int] = field(default_factory=list)
    stage: list[int] = field(default_factory=list)
    microbatch: list[int] = field(default_factory=list)
    factor: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.kind)


@dataclass
class DependencyColumns:
    """Dependencies to add: who waits, for whom, and for which fraction of it."""

    node: list[int] = field(default_factory=list)
    producer: list[int] = field(default_factory=list)
    fraction: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.node)


@dataclass
class Extension:
    """Nodes to append to ``graph``, stream by stream, and dependencies between any nodes."""

    graph: OpGraph
    streams: list[Stream] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    nodes: NodeColumns = field(default_factory=NodeColumns)
    deps: DependencyColumns = field(default_factory=DependencyColumns)

    def stream(self, rank: int, name: str) -> None:
        """Start a new stream; the nodes that follow belong to it."""
        self.streams.append(Stream(rank, name))
        self.sizes.append(0)

    def node(self, kind: Kind, stage: int = NO_STAGE, microbatch: int = NO_STAGE, factor: float = 1.0) -> int:
        """Append a node to the newest stream; its number in the extended graph."""
        self.nodes.kind.append(int(kind))
        self.nodes.stage.append(stage)
        self.nodes.microbatch.append(microbatch)
        self.nodes.factor.append(factor)
        self.sizes[-1] += 1
        return len(self.graph) + len(self.nodes) - 1

    def wait(self, node: int, producer: int, fraction: float = 1.0) -> None:
        """Let ``node`` wait until ``fraction`` of ``producer`` is done."""
        self.deps.node.append(node)
        self.deps.producer.append(producer)
        self.deps.fraction.append(fraction)

    def add_nodes(self, kind: Column, stage: Column, microbatch: Column) -> NDArray[np.int64]:
        """Append nodes to the newest stream; their numbers in the extended graph."""
        first = len(self.graph) + len(self.nodes)
        self.nodes.kind.extend(kind.tolist())
        self.nodes.stage.extend(stage.tolist())
        self.nodes.microbatch.extend(microbatch.tolist())
        self.nodes.factor.extend([1.0] * len(kind))
        self.sizes[-1] += len(kind)
        return first + np.arange(len(kind))

    def add_waits(self, nodes: Column, producers: Column, fractions: NDArray[np.float64] | None = None) -> None:
        """Let each node wait for its producer, or for a fraction of it."""
        self.deps.node.extend(nodes.tolist())
        self.deps.producer.extend(producers.tolist())
        self.deps.fraction.extend([1.0] * len(nodes) if fractions is None else fractions.tolist())

    def build(self) -> OpGraph:
        """The extended graph."""
        if not self.nodes and not self.deps:
            return self.graph
        graph, added = self.graph, self.nodes
        ends = graph.starts[-1] + np.cumsum(self.sizes, dtype=np.int64)
        return replace(
            _with_deps(graph, self.deps, len(added)),
            streams=[*graph.streams, *self.streams],
            starts=np.concatenate([graph.starts, ends]),
            kind=np.append(graph.kind, np.array(added.kind, np.int8)),
            stage=np.append(graph.stage, np.array(added.stage, np.int32)),
            microbatch=np.append(graph.microbatch, np.array(added.microbatch, np.int32)),
            paired=np.append(graph.paired, np.zeros(len(added), bool)),
            duration=np.append(graph.duration, np.zeros(len(added), np.int64)),
            factor=self._factors(),
        )

    def _factors(self) -> NDArray[np.float64] | None:
        new = np.array(self.nodes.factor, np.float64)
        if self.graph.factor is None and bool((new == 1.0).all()):
            return None
        old = self.graph.factor if self.graph.factor is not None else np.ones(len(self.graph))
        return np.concatenate([old, new])


def _with_deps(graph: OpGraph, deps: DependencyColumns, more_nodes: int) -> OpGraph:
    """The graph's dependency lists with more entries, each after those that its node has, over ``more_nodes`` more."""
    count = np.zeros(len(graph) + more_nodes + 1, np.int32)
    count[1 : len(graph) + 1] = np.diff(graph.dep_starts)
    ends = np.append(graph.dep_starts[1:], np.full(more_nodes, len(graph.dep_node)))
    node = np.array(deps.node, np.int64)
    order = np.argsort(node, kind="stable")
    place = ends[node[order]]
    np.add.at(count, node + 1, 1)
    return replace(
        graph,
        dep_starts=np.cumsum(count, out=count),
        dep_node=np.insert(graph.dep_node, place, np.array(deps.producer, np.int32)[order]),
        dep_fraction=_fractions(graph, place, np.array(deps.fraction, np.float64)[order]),
        dep_message=np.insert(graph.dep_message, place, NO_MESSAGE),
        dep_lag=np.zeros(len(graph.dep_node) + len(node), np.int64),
    )


def _fractions(graph: OpGraph, place: NDArray[np.int64], new: NDArray[np.float64]) -> NDArray[np.float64] | None:
    if graph.dep_fraction is None and bool((new == 1.0).all()):
        return None
    old = graph.dep_fraction if graph.dep_fraction is not None else np.ones(len(graph.dep_node))
    return np.insert(old, place, new)
