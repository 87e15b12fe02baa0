"""Many duration vectors over one graph, in machine code (numba): what-if studies and Monte Carlo.

The order in which nodes can be evaluated does not depend on durations, so it is found once; then every pass is
straight. Eight scenarios go through it side by side, in the lanes of vector instructions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.errors import DeadlockError
from pipesim.ir.graph import OpGraph
from pipesim.ir.waiting import describe_deadlock
from pipesim.jit import jit

Picoseconds = NDArray[np.int64]
LANES = 8


class Batch:
    """A graph ready to be evaluated for many durations at a time, on an ideal network.

    Raises:
        DeadlockError: some streams wait for each other; the message says for what.
    """

    def __init__(self, graph: OpGraph) -> None:
        self.graph = graph
        self._order = _evaluation_order(graph.starts, graph.dep_starts, graph.dep_node)
        if len(self._order) < len(graph):
            done = np.zeros(len(graph), bool)
            done[self._order] = True
            raise DeadlockError(describe_deadlock(graph, done))
        self._heads = np.zeros(len(graph), bool)
        self._heads[graph.starts[:-1][np.diff(graph.starts) > 0]] = True

    def makespans(self, durations: Picoseconds, lags: Picoseconds | None = None) -> Picoseconds:
        """Latest end for every row of ``durations`` (K, n), in picoseconds since the start; shape (K,).

        ``lags``: one row of lags for all, shape (m,), or one each, (K, m); those of the graph when None.
        """
        rows = np.atleast_2d(self.graph.dep_lag if lags is None else lags)
        edges = self.graph.dep_starts, self.graph.dep_node
        return _latest_ends(self._order, self._heads, *edges, np.ascontiguousarray(rows), durations)


@jit
def _evaluation_order(
    starts: NDArray[np.int64], dep_starts: NDArray[np.int32], dep_node: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Nodes in an order in which everything that a node waits for comes before it; without those that never run."""
    order, done = np.empty(starts[-1], np.int32), np.zeros(starts[-1], np.bool_)
    cursor, count, moved = starts[:-1].copy(), 0, True
    while moved:
        moved = False
        for stream in range(len(cursor) - 1, -1, -1):
            node = cursor[stream]
            while node < starts[stream + 1] and done[dep_node[dep_starts[node] : dep_starts[node + 1]]].all():
                order[count], done[node] = node, True
                count += 1
                node += 1
            moved = moved or node > cursor[stream]
            cursor[stream] = node
    return order[:count]


@jit
def _latest_ends(
    order: NDArray[np.int32],
    heads: NDArray[np.bool_],
    dep_starts: NDArray[np.int32],
    dep_node: NDArray[np.int32],
    lags: Picoseconds,
    durations: Picoseconds,
) -> Picoseconds:
    scenarios, nodes = durations.shape
    latest = np.zeros(-(-scenarios // LANES) * LANES, np.int64)
    end, duration = np.zeros((nodes, LANES), np.int64), np.zeros((nodes, LANES), np.int64)
    lag = np.zeros((len(dep_node), LANES), np.int64)
    for lane in range(LANES):
        lag[:, lane] = lags[0]
    ready = np.zeros(LANES, np.int64)
    for first in range(0, scenarios, LANES):
        for lane in range(min(LANES, scenarios - first)):
            duration[:, lane] = durations[first + lane]
            if len(lags) > 1:
                lag[:, lane] = lags[first + lane]
        last = latest[first : first + LANES]
        for node in order:
            for lane in range(LANES):
                ready[lane] = 0 if heads[node] else end[node - 1, lane]
            for edge in range(dep_starts[node], dep_starts[node + 1]):
                producer = dep_node[edge]
                for lane in range(LANES):
                    ready[lane] = max(ready[lane], end[producer, lane] + lag[edge, lane])
            for lane in range(LANES):
                ready[lane] += duration[node, lane]
                end[node, lane] = ready[lane]
                last[lane] = max(last[lane], ready[lane])
    return latest[:scenarios]
