"""Optimizer steps inside a program: the reductions that they wait for, and an engine of their own.

Both passes only move and add nodes; which gradient an optimizer step applies, and which weights a forward uses,
is the program's order.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.graph import COLLECTIVE, UPDATE, OpGraph, Stream
from pipesim.ir.op import GRADIENT_KINDS, Kind
from pipesim.ir.updates import stages_on_ranks
from pipesim.lowering.extend import Extension

Nodes = NDArray[np.int64]

_NOWHERE = -1


def split_engines(graph: OpGraph) -> OpGraph:
    """The graph with W and OPT on a second stream of each rank, beside F and I.

    W starts with its I, because both need only the gradient that arrives. OPT waits for I as well, which still
    reads the weights. What uses the newest weights (F, RECONSTRUCT) waits for the stage's last OPT before it.
    Ops of overlapped pairs stay together, on the compute stream.
    """
    moved = np.isin(graph.kind, (Kind.W, Kind.OPT)) & (graph.stage >= 0) & ~_in_pair(graph)
    extension = Extension(graph)
    for _, _, nodes in stages_on_ranks(graph):
        _keep_order(extension, nodes)
    return _regroup(extension.build(), moved)


def _in_pair(graph: OpGraph) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = graph.paired.copy()
    inside[1:] |= graph.paired[:-1]
    return inside


def _keep_order(extension: Extension, nodes: Nodes) -> None:
    """Turn what the order of one stage's ops meant into waiting, where it must still hold."""
    graph = extension.graph
    kind = graph.kind[nodes]
    weights, updates = nodes[kind == Kind.W], nodes[kind == Kind.OPT]
    inputs = np.full(graph.microbatches, _NOWHERE)
    inputs[graph.microbatch[nodes[kind == Kind.I]]] = nodes[kind == Kind.I]
    _wait(extension, weights, inputs[graph.microbatch[weights]], 0.0)
    _wait(extension, updates, inputs[graph.microbatch[updates]])
    readers = nodes[np.isin(kind, (Kind.F, Kind.RECONSTRUCT))]
    newest = np.append(updates, _NOWHERE)[np.searchsorted(updates, readers) - 1]
    _wait(extension, readers, newest)


def _wait(extension: Extension, nodes: Nodes, producers: Nodes, fraction: float = 1.0) -> None:
    """Let each node wait for its producer, where there is one."""
    some = producers != _NOWHERE
    for node, producer in zip(nodes[some].tolist(), producers[some].tolist(), strict=True):
        extension.wait(node, producer, fraction)


def _regroup(graph: OpGraph, moved: NDArray[np.bool_]) -> OpGraph:
    """The same nodes and dependencies, with the ``moved`` ones on a second stream per rank, in the same order."""
    order = np.concatenate([np.flatnonzero(~moved), np.flatnonzero(moved)])
    new = np.empty(len(order), np.int64)
    new[order] = np.arange(len(order))
    rank = graph.rank
    sizes = np.concatenate([np.bincount(rank[part], minlength=graph.ranks) for part in (~moved, moved)])
    consumer = new[np.repeat(np.arange(len(graph)), np.diff(graph.dep_starts))]
    edges = np.argsort(consumer, kind="stable")
    counts = np.bincount(consumer, minlength=len(graph))
    kind = graph.dep_starts.dtype
    return replace(
        graph,
        streams=[*graph.streams, *(Stream(r, UPDATE) for r in range(graph.ranks))],
        starts=np.concatenate([[0], np.cumsum(sizes)]),
        kind=graph.kind[order],
        stage=graph.stage[order],
        microbatch=graph.microbatch[order],
        paired=graph.paired[order],
        duration=graph.duration[order],
        dep_starts=np.concatenate([[0], np.cumsum(counts)]).astype(kind),
        dep_node=new[graph.dep_node[edges]].astype(graph.dep_node.dtype),
        dep_fraction=None if graph.dep_fraction is None else graph.dep_fraction[edges],
        dep_message=graph.dep_message[edges],
        dep_lag=graph.dep_lag[edges],
    )


def add_reductions(graph: OpGraph, buckets: NDArray[np.int64]) -> OpGraph:
    """The graph with a collective stream per rank, on which gradients are reduced before each optimizer step.

    ``buckets`` (S,): bucket i of n leaves when (i + 1) / n of the last backward before the step is done. Gradients
    of the other micro-batches of the step are added up on the rank, as usual.
    """
    extension = Extension(graph)
    updates = np.flatnonzero((graph.kind == Kind.OPT) & (graph.stage >= 0))
    rank = graph.rank
    gradient = _gradients(graph)
    for owner in range(graph.ranks):
        extension.stream(owner, COLLECTIVE)
        for update in updates[rank[updates] == owner].tolist():
            stage = int(graph.stage[update])
            _reduce_before(extension, update, int(gradient[stage, graph.microbatch[update]]), int(buckets[stage]))
    return extension.build()


def _gradients(graph: OpGraph) -> Nodes:
    """The node that completes each stage's gradient for each micro-batch, shape (S, M)."""
    table = np.full((graph.placement.stages, graph.microbatches), -1, np.int64)
    nodes = np.flatnonzero(np.isin(graph.kind, GRADIENT_KINDS))
    table[graph.stage[nodes], graph.microbatch[nodes]] = nodes
    return table


def _reduce_before(extension: Extension, update: int, gradient: int, count: int) -> None:
    stage = int(extension.graph.stage[update])
    for bucket in range(count):
        node = extension.node(Kind.REDUCE_GRAD, stage, bucket)
        extension.wait(node, gradient, (bucket + 1) / count)
        extension.wait(update, node)
