"""Memory of ranks whose ops run on several streams at a time: by the clock, not by the order of one stream.

Only needed where something beside the compute stream takes memory or gives it back: weight gradients on an engine of
their own, copies to the host.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.graph import OpGraph
from pipesim.ir.op import Kind, is_any
from pipesim.ir.timeline import Timeline
from pipesim.lowering.memory import MemoryEffects

Floats = NDArray[np.float64]
Nodes = NDArray[np.int64]


def works_beside(graph: OpGraph) -> bool:
    """Whether backwards for weights run beside the compute streams, or activations are copied to the host."""
    return bool(is_any(graph.kind[graph.compute_nodes :], (Kind.W, Kind.OFFLOAD)).any())


def changes(timeline: Timeline, effects: MemoryEffects, rank: int) -> tuple[Nodes, NDArray[np.int64], Floats]:
    """What a rank takes (positive) and gives back (negative), in order of time: nodes, picoseconds, bytes.

    At one moment, ops that end give back before others take; one that does both without duration takes first.
    """
    nodes = np.flatnonzero((timeline.graph.rank == rank) & ((effects.takes != 0) | (effects.gives != 0)))
    start, end = timeline.start[nodes], timeline.end[nodes]
    moment = np.concatenate([start, end])
    at_once = (end == start) & (effects.takes[nodes] != 0)
    turn = np.concatenate([np.ones(len(nodes)), np.where(at_once, 2, 0)])
    order = np.lexsort((turn, moment))
    amount = np.concatenate([effects.takes[nodes], -effects.gives[nodes]])
    return np.tile(nodes, 2)[order], moment[order], amount[order]


def peak(timeline: Timeline, effects: MemoryEffects, rank: int) -> tuple[float, int, int]:
    """Largest level of a rank, when (picoseconds) and at which node it is reached first; -1 without any."""
    nodes, moment, amount = changes(timeline, effects, rank)
    if len(nodes) == 0:
        return 0.0, 0, -1
    level = np.cumsum(amount)
    top = int(level.argmax())
    return float(level[top]), int(moment[top]), int(nodes[top])


def in_flight(timeline: Timeline) -> Floats:
    """Largest number of (stage, micro-batch) activations held at once, in units of a rank's share, shape (P,)."""
    graph = timeline.graph
    takes = (graph.kind == Kind.F).astype(np.float64)
    gives = ((graph.kind == Kind.W) | (graph.kind == Kind.B)).astype(np.float64)
    effects = MemoryEffects(takes, gives)
    most = [peak(timeline, effects, rank)[0] for rank in range(graph.ranks)]
    return np.array(most) / graph.placement.chunks
