"""What the messages of one blocking exchange wait for each other: a port sends one at a time, and receives one.

An exchange is everything that a rank sends and receives between two compute ops, posted as one batch. Its
messages start together, so those through the same port (the network card or NVLink port of `Hops`) share it: each
is there when all of them are, or, where together they cannot fill the port, as soon as alone. Different exchanges do
not disturb each other; the networks `fifo` and `fair` are for that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import Costs
from pipesim.ir.graph import NO_MESSAGE, OpGraph
from pipesim.ir.op import Kind
from pipesim.ir.placement import Ranks
from pipesim.ir.traffic import WHOLE, in_1024ths

Nodes = NDArray[np.int64]
Picoseconds = NDArray[np.int64]


@dataclass(frozen=True)
class Exchanges:
    """Messages by the exchanges that send and receive them.

    ``edges`` are the dependencies of transfers, shape (m,), and ``message`` the message that each waits for. Of
    every message, ``hop`` is an index into a flat table of hops, ``sending`` and ``receiving`` number its exchanges.
    """

    edges: Nodes
    message: Nodes
    hop: Nodes
    sending: Nodes
    receiving: Nodes

    def waits(self, occupied: Picoseconds, costs: Costs, ends: tuple[Ranks, Ranks]) -> Picoseconds:
        """How much longer each of ``edges`` takes than a message alone; ``occupied`` is per dependency of the graph,
        ``ends`` per hop.
        """
        hops, own = costs.hops, np.empty(len(self.hop), np.int64)
        own[self.message] = occupied[self.edges]
        whole = -(-own * in_1024ths(hops.port_share[ends]).ravel()[self.hop] // WHOLE)
        sent = _together(self.sending, hops.send_port[ends].ravel()[self.hop], whole)
        received = _together(self.receiving, hops.receive_port[ends].ravel()[self.hop], whole)
        waits: Picoseconds = np.maximum(np.maximum(sent, received) - own, 0)[self.message]
        return waits


def exchanges_of(graph: OpGraph, hops: Nodes) -> Exchanges | None:
    """The exchanges of a graph whose dependencies take ``hops``; None where transfers do not hold the ranks."""
    transfer = (graph.kind >= Kind.SEND_F) & (graph.kind <= Kind.RECV_B)
    if not transfer.any():
        return None
    counts = np.diff(graph.dep_starts)
    edges = np.flatnonzero(np.repeat(transfer, counts) & (graph.dep_message != NO_MESSAGE))
    node = np.repeat(np.arange(len(graph)), counts)[edges]
    keys, message = np.unique(hops[edges] * graph.microbatches + graph.microbatch[node], return_inverse=True)
    hop, exchange = np.empty(len(keys), np.int64), np.cumsum(~transfer)
    hop[message] = hops[edges]
    sends = (graph.kind[node] == Kind.SEND_F) | (graph.kind[node] == Kind.SEND_B)
    ends = np.zeros((2, len(keys)), np.int64)
    for row, chosen in enumerate((sends, ~sends)):
        ends[row, message[chosen]] = exchange[node[chosen]] * graph.ranks + graph.rank[node[chosen]]
    return Exchanges(edges, message.astype(np.int64), hop, ends[0], ends[1])


def _together(exchange: Nodes, port: Ranks, occupied: Picoseconds) -> Picoseconds:
    """For every message, the sum over those of the same exchange and port; ``occupied``: as if each had it whole."""
    ports = int(port.max(initial=0)) + 1
    group = np.unique(exchange * ports + port, return_inverse=True)[1]
    total = np.zeros(int(group.max(initial=0)) + 1, np.int64)
    np.add.at(total, group, occupied)
    return total[group]
