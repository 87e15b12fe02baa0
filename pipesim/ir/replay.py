"""The plainest replay of a graph: every stream goes on as far as it can, in Python, without lags.

For checks and estimates of small and middle-sized graphs; engines do the real work.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.graph import OpGraph

NEVER = -1


def earliest_ends(graph: OpGraph, duration: NDArray[np.int64]) -> NDArray[np.int64]:
    """Earliest end of every node for the given durations and no lags, shape (n,); -1 for nodes never reached."""
    starts, dep_starts, dep_node = graph.starts.tolist(), graph.dep_starts.tolist(), graph.dep_node.tolist()
    length = duration.tolist()
    end = [NEVER] * len(graph)
    cursor, last, clock = starts[:-1], starts[1:], [0] * (len(starts) - 1)
    active = list(range(len(cursor)))
    while active:
        moved = False
        for stream in active:
            node = cursor[stream]
            while node < last[stream]:
                arrivals = [end[d] for d in dep_node[dep_starts[node] : dep_starts[node + 1]]]
                if NEVER in arrivals:
                    break
                clock[stream] = end[node] = max([clock[stream], *arrivals]) + length[node]
                node += 1
            moved = moved or node != cursor[stream]
            cursor[stream] = node
        active = [s for s in active if cursor[s] < last[s]]
        if not moved:
            break
    return np.array(end, np.int64)
