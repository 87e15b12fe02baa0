"""Which hop every message of a graph takes: from stage s to s + 1 or back, on the route of its micro-batch.

Tables of hops have shape (routes, S, 2): the hops across the boundary between stages s and s + 1, to the next
stage and back. The last boundary of each route does not exist; it stands for "no message".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import Costs
from pipesim.ir.graph import OpGraph
from pipesim.ir.op import Kind
from pipesim.ir.placement import Placement

Ranks = NDArray[np.int32]
Picoseconds = NDArray[np.int64]
Ends = tuple[Ranks, Ranks]


class Messages:
    """The messages of a graph: the hop of every dependency (m,), and where hops start and end."""

    def __init__(self, graph: OpGraph) -> None:
        self.graph = graph
        self.hop, self.ends = hops_of(graph), hop_ends(graph.placement)

    def lookup(self, table: Callable[[Ends, Costs], Picoseconds], costs: Costs) -> Picoseconds:
        """What a table of hops says of every dependency's own hop and micro-batch, shape (m,); 0 without a message."""
        if costs.variants is None:
            whole = table(self.ends, costs)
            return whole.ravel()[self.hop] if np.count_nonzero(whole) else np.zeros(len(self.hop), np.int64)
        tables = costs.variants.rows(lambda each: table(self.ends, each))
        number = np.where(self._microbatch >= 0, costs.variants.of[self._microbatch], 0)
        chosen: Picoseconds = tables.ravel()[self.hop + number * tables[0].size]
        return chosen

    @cached_property
    def _microbatch(self) -> Ranks:
        """The micro-batch whose message each dependency waits for, shape (m,); -1 for none."""
        carried = np.where(self.graph.dep_message >= 0, self.graph.microbatch[self.graph.dep_node], np.int32(-1))
        edges, transfers = _transfers(self.graph)
        known = self.graph.dep_message[edges] >= 0
        carried[edges[known]] = self.graph.microbatch[transfers[known]]
        return carried


def hop_ends(placement: Placement) -> Ends:
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
    edges, transfers = _transfers(graph)
    kind = graph.kind[transfers]
    back[edges] = (kind == Kind.SEND_B) | (kind == Kind.RECV_B)
    if microbatch is not None:
        microbatch[edges] = graph.microbatch[transfers]


def _transfers(graph: OpGraph) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The dependencies of blocking transfers, and the transfer that each belongs to."""
    transfer = (graph.kind >= Kind.SEND_F) & (graph.kind <= Kind.RECV_B)
    if not transfer.any():
        return np.empty(0, np.int64), np.empty(0, np.int64)
    consumer = np.repeat(np.arange(len(graph)), np.diff(graph.dep_starts))
    edges = np.flatnonzero(transfer[consumer])
    return edges, consumer[edges]
