"""The picture of a deadlock: what each stream is stuck on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.graph import OpGraph

_SHOWN = 16
_WAITS_SHOWN = 4


def describe_deadlock(graph: OpGraph, done: NDArray[np.bool_]) -> str:
    """One line per stuck stream: the op that cannot start and the ops that it waits for.

    ``done`` says which nodes have started, shape (n,).
    """
    lines = []
    for index, stream in enumerate(graph.streams):
        nodes = np.arange(graph.starts[index], graph.starts[index + 1])
        stuck = nodes[~done[nodes]]
        if len(stuck):
            who = f"rank {stream.rank}" if stream.name == "compute" else f"rank {stream.rank} ({stream.name})"
            lines.append(f"  {who} cannot start {_waits(graph, int(stuck[0]), done)}")
    shown = lines[:_SHOWN]
    if len(lines) > _SHOWN:
        shown.append(f"  ... and {len(lines) - _SHOWN} more")
    return "deadlock: no rank can go on\n" + "\n".join(shown)


def _waits(graph: OpGraph, node: int, done: NDArray[np.bool_]) -> str:
    rank = graph.rank
    missing = [int(d) for d in graph.dependencies(node) if not done[d]]
    names = list(dict.fromkeys(f"{graph.op(d)} on rank {rank[d]}" for d in missing))
    more = f" and {len(names) - _WAITS_SHOWN} more" if len(names) > _WAITS_SHOWN else ""
    return f"{graph.op(node)}: waiting on {', '.join(names[:_WAITS_SHOWN])}{more}"
