"""The compiled engine: the longest path through a graph, in machine code.

The integers are those of the event engine wherever no order depends on time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.errors import DeadlockError
from pipesim.ir.graph import OpGraph
from pipesim.ir.replay import NEVER
from pipesim.ir.sweep import replay
from pipesim.ir.timeline import Timeline
from pipesim.ir.waiting import describe_deadlock


def run(graph: OpGraph) -> Timeline:
    """Evaluate a bound graph on an ideal network.

    Raises:
        DeadlockError: some streams wait for each other; the message says for what.
    """
    return Timeline(graph, ends(graph, graph.duration, graph.dep_lag))


def ends(graph: OpGraph, duration: NDArray[np.int64], lag: NDArray[np.int64]) -> NDArray[np.int64]:
    """End of every node (n,) for durations (n,) and lags (m,) other than the graph's own; otherwise as `run`."""
    end = np.full(len(graph), NEVER, np.int64)
    done = replay(graph.starts, graph.dep_starts, graph.dep_node, lag, duration, end)
    if done < len(graph):
        raise DeadlockError(describe_deadlock(graph, end != NEVER))
    return end
