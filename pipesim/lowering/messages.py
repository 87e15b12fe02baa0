"""Which hop every message of a graph takes: from stage s to s + 1 or back, on the route of its micro-batch.

Tables of hops have shape (routes, S, 2): the hops across the boundary between stages s and s + 1, to the next
stage and back. The last boundary of each route does not exist; it stands for "no message".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.graph import OpGraph
from pipesim.ir.op import Kind
from pipesim.ir.placement import Placement

Ranks = NDArray[np.int32]


def hop_ends(placement: Placement) -> tuple[Ranks, Ranks]:
    """Sending and receiving rank of every hop, each (routes, S, 2)."""
    here = placement.rank_of
    there = np.concatenate([here[:, 1:], here[:, -1:]], axis=1)
    return np.stack([here, there], axis=2), np.stack([there, here], axis=2)


def hops_of(graph: OpGraph) -> NDArray[np.int64]:
    """The hop of every dependency, as an index into a flat table of hops; shape (m,)."""
    producer = graph.dep_node
    back = graph.stage[producer] != graph.dep_message
    several = graph.placement.routes > 1
    microbatch = np.where(graph.dep_message >= 0, graph.microbatch[producer], 0) if several else None
    _correct_exchanges(graph, back, microbatch)
    hop = np.multiply(graph.dep_message, 2, dtype=np.int64)
    hop += back
    if microbatch is not None:
        hop += graph.route_of[microbatch] * np.int64(2 * graph.placement.stages)
    return hop


def _correct_exchanges(graph: OpGraph, back: NDArray[np.bool_], microbatch: Ranks | None) -> None:
    """A blocking transfer waits for both its ends; what it moves follows from the transfer itself."""
    transfer = (graph.kind >= Kind.SEND_F) & (graph.kind <= Kind.RECV_B)
    if not transfer.any():
        return
    consumer = np.repeat(np.arange(len(graph)), np.diff(graph.dep_starts))
    edges = np.flatnonzero(transfer[consumer])
    kind = graph.kind[consumer[edges]]
    back[edges] = (kind == Kind.SEND_B) | (kind == Kind.RECV_B)
    if microbatch is not None:
        microbatch[edges] = graph.microbatch[consumer[edges]]
