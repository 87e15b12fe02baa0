"""The plainest replay of a graph: every stream goes on as far as it can.

For checks and estimates; engines do the real work. Small graphs are replayed in Python, so that they do not pay
for numba's import.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.graph import OpGraph

NEVER = -1
_LARGE = 100_000
"""Nodes from which on machine code is worth its import (about as long as Python takes for so many)."""


def earliest_ends(
    graph: OpGraph, duration: NDArray[np.int64], lag: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Earliest end of every node for the given durations, shape (n,); -1 for nodes never reached.

    ``lag`` of every dependency, shape (m,); none when left out.
    """
    lag = lag if lag is not None else np.zeros_like(graph.dep_lag)
    return _compiled(graph, duration, lag) if len(graph) > _LARGE else _plain(graph, duration, lag)


def _compiled(graph: OpGraph, duration: NDArray[np.int64], lag: NDArray[np.int64]) -> NDArray[np.int64]:
    from pipesim.ir.sweep import replay

    end = np.full(len(graph), NEVER, np.int64)
    replay(graph.starts, graph.dep_starts, graph.dep_node, lag, duration, end)
    return end


def _plain(graph: OpGraph, duration: NDArray[np.int64], lag: NDArray[np.int64]) -> NDArray[np.int64]:
    starts, dep_starts, dep_node = graph.starts.tolist(), graph.dep_starts.tolist(), graph.dep_node.tolist()
    length, lags = duration.tolist(), lag.tolist()
    end = [NEVER] * len(graph)
    cursor, last, clock = starts[:-1], starts[1:], [0] * (len(starts) - 1)
    active = list(range(len(cursor)))
    while active:
        moved = False
        for stream in active:
            node = cursor[stream]
            while node < last[stream]:
                edges = range(dep_starts[node], dep_starts[node + 1])
                if any(end[dep_node[edge]] == NEVER for edge in edges):
                    break
                arrivals = [end[dep_node[edge]] + lags[edge] for edge in edges]
                clock[stream] = end[node] = max([clock[stream], *arrivals]) + length[node]
                node += 1
            moved = moved or node != cursor[stream]
            cursor[stream] = node
        active = [s for s in active if cursor[s] < last[s]]
        if not moved:
            break
    return np.array(end, np.int64)
