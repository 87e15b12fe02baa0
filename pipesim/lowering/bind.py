"""Costs -> durations and lags of a graph, as integer picoseconds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import Bytes, Costs, Hops, Seconds
from pipesim.ir.graph import NO_MESSAGE, OpGraph, padded
from pipesim.ir.op import Kind
from pipesim.ir.timeline import check_countable, to_picoseconds
from pipesim.ir.traffic import WHOLE, Traffic, in_1024ths
from pipesim.lowering.exchanges import exchanges_of
from pipesim.lowering.messages import Ends, Messages

Picoseconds = NDArray[np.int64]


def bind(graph: OpGraph, costs: Costs) -> OpGraph:
    """The graph with every op's duration and every dependency's lag taken from ``costs``.

    Raises:
        PipesimError: all ops together would take longer than engines can count.
    """
    bound = Binder(graph).bind(costs)
    check_countable(float(bound.duration.sum(dtype=np.float64)) + float(bound.dep_lag.sum(dtype=np.float64)))
    return bound


class Binder:
    """Everything about a graph that binding looks up, so that other costs can be bound quickly."""

    def __init__(self, graph: OpGraph) -> None:
        self.graph = graph
        self._places = graph.table_places()
        self._buckets = np.flatnonzero(graph.kind == Kind.REDUCE_GRAD)
        self._whole_rank = np.flatnonzero(graph.stage < 0)
        self._pairs = np.flatnonzero(graph.paired)
        self._scaled = None if graph.factor is None else np.flatnonzero(graph.factor != 1.0)
        self._messages = Messages(graph)
        fraction = graph.dep_fraction
        self._parts = None if fraction is None else np.flatnonzero(fraction < 1.0)
        self._exchanges = exchanges_of(graph, self._messages.hop)
        self._known: tuple[Hops, Bytes, Picoseconds] | None = None

    def bind(self, costs: Costs) -> OpGraph:
        """The graph with durations and lags."""
        duration = self.durations(costs)
        return self.graph.bound(duration, self.lags(costs, duration))

    def durations(self, costs: Costs) -> Picoseconds:
        """Duration of every node, shape (n,); the second op of an overlapped pair takes none."""
        table = duration_table(costs)
        if costs.variants is None:
            duration = padded(table).take(self._places)
        else:
            duration = self.graph.lookup(costs.variants.rows(duration_table), costs.variants.of)
        if len(self._buckets):
            self._split_reductions(costs, duration)
        if len(self._whole_rank):
            self._sum_stages(table, duration)
        if len(self._pairs):
            first = self._pairs
            both = duration[first] + duration[first + 1]
            duration[first] = np.rint(both * costs.pair_factor).astype(np.int64)
            duration[first + 1] = 0
        if self.graph.factor is not None and self._scaled is not None:
            some = self._scaled
            duration[some] = np.rint(duration[some] * self.graph.factor[some]).astype(np.int64)
        return duration

    def lags(self, costs: Costs, duration: Picoseconds) -> Picoseconds:
        """Lag of every dependency, shape (m,), for the durations of the nodes."""
        lag = self._message_lags(costs).copy()
        fraction, part = self.graph.dep_fraction, self._parts
        if fraction is not None and part is not None:
            left = duration[self.graph.dep_node[part]] * (1.0 - fraction[part])
            lag[part] -= np.rint(left).astype(np.int64)
        return lag

    def _message_lags(self, costs: Costs) -> Picoseconds:
        """Lags of messages alone, shape (m,); kept until costs come with other links or messages."""
        hops, message, alike = costs.hops, costs.sizes.message, costs.variants is None
        if alike and self._known is not None and self._known[0] is hops and self._known[1] is message:
            return self._known[2]
        lag = self._messages.lookup(_hop_table, costs)
        if self._exchanges is not None:
            occupied = self._messages.lookup(_occupied_table, costs)
            lag[self._exchanges.edges] += self._exchanges.waits(occupied, costs, self._messages.ends)
        if alike:
            self._known = hops, message, lag
        return lag

    def _split_reductions(self, costs: Costs, duration: Picoseconds) -> None:
        """Split a stage's reduction evenly over its buckets, to the picosecond."""
        nodes = self._buckets
        bucket, count = self.graph.microbatch[nodes], costs.buckets[self.graph.stage[nodes]]
        total = duration[nodes]
        duration[nodes] = (bucket + 1) * total // count - bucket * total // count

    def _sum_stages(self, table: Picoseconds, duration: Picoseconds) -> None:
        """An op without a stage costs the sum over the stages that its rank holds; nothing without a rank."""
        nodes, holds = self._whole_rank, self.graph.placement.holds.astype(np.int64)
        owner = self.graph.rank[nodes]
        sums = holds @ table.T
        duration[nodes] = np.where(owner < 0, 0, sums[owner, self.graph.kind[nodes]])


def duration_table(costs: Costs) -> Picoseconds:
    """Picoseconds by kind and stage, shape (kinds, S). A full backward is its two halves less their overlap."""
    times, host = costs.times, costs.host
    table = np.zeros((len(Kind), costs.stages), np.int64)
    seconds = np.concatenate([*(getattr(times, name) for name in _PRICES.values()), times.overlap])
    prices = to_picoseconds(seconds).reshape(-1, costs.stages)
    table[_ROWS] = prices[:-1]
    table[Kind.B] = table[Kind.I] + table[Kind.W] - prices[-1]
    if host is not None:
        table[Kind.OFFLOAD], table[Kind.RELOAD] = to_picoseconds(host.offload_s), to_picoseconds(host.reload_s)
    return table


_PRICES = {
    Kind.F: "forward",
    Kind.I: "input_grad",
    Kind.W: "weight_grad",
    Kind.RECOMPUTE: "recompute",
    Kind.REDUCE_GRAD: "reduce_grad",
    Kind.UNSHARD: "unshard",
    Kind.OPT: "optimizer",
    Kind.RECONSTRUCT: "reconstruct",
}
_ROWS = np.array(list(_PRICES))


def _hop_table(ends: Ends, costs: Costs) -> Picoseconds:
    """Picoseconds of every hop, shape (routes, S, 2); zero where there is no boundary."""
    seconds = costs.hops.latency_s[ends] + _occupied_s(ends, costs)
    seconds[:, -1] = 0.0
    return to_picoseconds(seconds)


def _occupied_table(ends: Ends, costs: Costs) -> Picoseconds:
    """Picoseconds for which a message keeps the ports of every hop, shape (routes, S, 2)."""
    occupied = to_picoseconds(_occupied_s(ends, costs))
    occupied[:, -1] = 0
    return occupied


def _occupied_s(ends: Ends, costs: Costs) -> Seconds:
    return costs.sizes.message[:, None] * costs.hops.seconds_per_byte[ends]


def traffic(graph: OpGraph, costs: Costs) -> Traffic:
    """Which ports the messages and collectives of a graph occupy, and for how long.

    Messages of one blocking exchange share ports like all others, instead of the waits that `bind` adds for them.
    """
    messages = Messages(graph)
    ends, hop = messages.ends, messages.hop
    ports = np.stack([costs.hops.send_port[ends], costs.hops.receive_port[ends]], axis=-1)
    occupied = messages.lookup(_occupied_table, costs)
    node_ports, node_share = _collectives(graph, costs)
    return Traffic(
        message=_message_numbers(graph, hop),
        dep_ports=ports.reshape(-1, 2)[hop],
        dep_occupied=occupied,
        dep_share=in_1024ths(costs.hops.port_share[ends]).reshape(-1)[hop],
        dep_latency=messages.lookup(_hop_table, costs) - occupied,
        node_ports=node_ports,
        node_share=node_share,
    )


def _message_numbers(graph: OpGraph, hop: NDArray[np.int64]) -> NDArray[np.int64]:
    """The message that each dependency waits for: one each, or one for both ends of a blocking transfer."""
    number = np.full(len(graph.dep_node), -1, np.int64)
    exchanges = exchanges_of(graph, hop)
    if exchanges is not None:
        number[exchanges.edges] = exchanges.message
    else:
        edges = np.flatnonzero(graph.dep_message != NO_MESSAGE)
        number[edges] = np.arange(len(edges))
    return number


def _collectives(graph: OpGraph, costs: Costs) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Ports of every node, shape (n, 2), and how many 1024ths of them it keeps busy, shape (n,)."""
    ports, share = np.full((len(graph), 2), -1, np.int32), np.full(len(graph), WHOLE, np.int64)
    if costs.sharing is not None:
        for kind, shares in ((Kind.REDUCE_GRAD, costs.sharing.reduce), (Kind.UNSHARD, costs.sharing.unshard)):
            nodes = np.flatnonzero(graph.kind == kind)
            ports[nodes] = costs.sharing.ports[graph.rank[nodes]]
            share[nodes] = in_1024ths(shares[graph.stage[nodes]])
    return ports, share
