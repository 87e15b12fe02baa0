"""How late the forwards of the warm-up may run without delaying anything else.

Ranks run as early as they can, so during the warm-up they would fill their memory long before anything comes back.
Postponed as far as possible, forwards give copies to the host the time they need (PipeOffload, arXiv 2503.01328,
section 4.2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.graph import OpGraph
from pipesim.ir.op import Kind

Picoseconds = NDArray[np.int64]


def latest_starts(graph: OpGraph, start: Picoseconds) -> Picoseconds:
    """Start of every node of a bound graph, shape (n,), with warm-up forwards as late as possible.

    ``start`` are the earliest starts; all other nodes keep them.
    """
    late = start.copy()
    nodes = _warmup(graph)
    followers = _followers(graph, nodes)
    for node in nodes[np.lexsort((-nodes, -start[nodes], -(start + graph.duration)[nodes]))].tolist():
        bounds = [int(late[consumer]) - lag for consumer, lag in followers[node]]
        late[node] = max(int(late[node]), min(bounds) - int(graph.duration[node])) if bounds else late[node]
    return late


def _warmup(graph: OpGraph) -> NDArray[np.int64]:
    """Forwards that a rank runs before anything else, except those of overlapped pairs."""
    found = []
    for rank in range(graph.ranks):
        first, last = int(graph.starts[rank]), int(graph.starts[rank + 1])
        others = np.flatnonzero((graph.kind[first:last] != Kind.F) | graph.paired[first:last])
        found.append(np.arange(first, first + int(others[0]) if len(others) else last))
    return np.concatenate(found)


def _followers(graph: OpGraph, nodes: NDArray[np.int64]) -> dict[int, list[tuple[int, int]]]:
    """What may not start before each node has ended, with the lag between: the next op and all that wait for it."""
    table: dict[int, list[tuple[int, int]]] = {node: [] for node in nodes.tolist()}
    last = set((graph.starts[1:] - 1).tolist())
    for node, followers in table.items():
        if node not in last:
            followers.append((node + 1, 0))
    wanted = np.zeros(len(graph), bool)
    wanted[nodes] = True
    edges = np.flatnonzero(wanted[graph.dep_node])
    consumer = np.repeat(np.arange(len(graph)), np.diff(graph.dep_starts))[edges]
    columns = (graph.dep_node[edges], consumer, graph.dep_lag[edges])
    for node, waiter, lag in zip(*(column.tolist() for column in columns), strict=True):
        table[node].append((waiter, lag))
    return table
