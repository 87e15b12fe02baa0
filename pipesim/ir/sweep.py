"""The replay of a graph in machine code (numba): importing this costs what importing numba costs.

It needs no topological order: every stream goes on until it meets a dependency that is not done, then the next
stream does, round after round. In a pipeline nearly every visit moves, so a queue of streams that can move costs
more than it saves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.jit import jit


@jit
def replay(
    starts: NDArray[np.int64],
    dep_starts: NDArray[np.int32],
    dep_node: NDArray[np.int32],
    dep_lag: NDArray[np.int64],
    duration: NDArray[np.int64],
    end: NDArray[np.int64],
) -> int:
    """Fill ``end``, given as -1 throughout; the number of nodes done."""
    streams = len(starts) - 1
    cursor, clock = starts[:-1].copy(), np.zeros(streams, np.int64)
    done, moved = 0, True
    while moved:
        moved = False
        for stream in range(streams - 1, -1, -1):
            node, last, now = cursor[stream], starts[stream + 1], clock[stream]
            edge = dep_starts[node]
            while node < last:
                stop, ready = dep_starts[node + 1], now
                while edge < stop:
                    ended = end[dep_node[edge]]
                    if ended < 0:
                        break
                    ready = max(ready, ended + dep_lag[edge])
                    edge += 1
                if edge < stop:
                    break
                now = ready + duration[node]
                end[node] = now
                node += 1
            if node > cursor[stream]:
                done += node - cursor[stream]
                cursor[stream], clock[stream] = node, now
                moved = True
    return done
