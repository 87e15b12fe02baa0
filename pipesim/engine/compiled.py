"""The compiled engine: the longest path through a graph, stream by stream, in machine code (numba).

It needs no topological order: every stream goes on until it meets a dependency that is not done, then the next
stream does, round after round. The integers are those of the event engine wherever no order depends on time.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipesim.errors import DeadlockError
from pipesim.ir.graph import OpGraph
from pipesim.ir.timeline import Timeline
from pipesim.ir.waiting import describe_deadlock

NEVER = np.int64(-1)


def run(graph: OpGraph) -> Timeline:
    """Evaluate a bound graph on an ideal network.

    Raises:
        DeadlockError: some streams wait for each other; the message says for what.
    """
    start, end = np.empty(len(graph), np.int64), np.full(len(graph), NEVER, np.int64)
    arrival = np.empty(len(graph.dep_node), np.int64)
    done = replay(graph.starts, graph.dep_starts, graph.dep_node, graph.dep_lag, graph.duration, start, end, arrival)
    if done < len(graph):
        raise DeadlockError(describe_deadlock(graph, end != NEVER))
    return Timeline(graph, start, end, arrival)


@njit(cache=True)
def replay(
    starts: NDArray[np.int64],
    dep_starts: NDArray[np.int64],
    dep_node: NDArray[np.int64],
    dep_lag: NDArray[np.int64],
    duration: NDArray[np.int64],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    arrival: NDArray[np.int64],
) -> int:
    """Fill ``start``, ``end`` (given as -1 throughout) and ``arrival``; the number of nodes done."""
    streams = len(starts) - 1
    cursor = starts[:-1].copy()
    clock = np.zeros(streams, np.int64)
    done = 0
    moved = True
    while moved:
        moved = False
        for stream in range(streams - 1, -1, -1):
            node, last, now = cursor[stream], starts[stream + 1], clock[stream]
            first = node
            while node < last:
                ready = now
                blocked = False
                for edge in range(dep_starts[node], dep_starts[node + 1]):
                    ended = end[dep_node[edge]]
                    if ended < 0:
                        blocked = True
                        break
                    arrival[edge] = ended + dep_lag[edge]
                    if arrival[edge] > ready:
                        ready = arrival[edge]
                if blocked:
                    break
                start[node] = ready
                now = ready + duration[node]
                end[node] = now
                node += 1
            if node > first:
                cursor[stream], clock[stream] = node, now
                done += node - first
                moved = True
    return done
