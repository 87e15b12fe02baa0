"""The compiled engine: the longest path through a graph, in machine code.

The integers are those of the event engine wherever no order depends on time.
"""

from __future__ import annotations

import numpy as np

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
    end = np.full(len(graph), NEVER, np.int64)
    done = replay(graph.starts, graph.dep_starts, graph.dep_node, graph.dep_lag, graph.duration, end)
    if done < len(graph):
        raise DeadlockError(describe_deadlock(graph, end != NEVER))
    return Timeline(graph, end)
