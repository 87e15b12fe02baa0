"""Costs -> durations and lags of a graph, as integer picoseconds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import Costs, StageTimes
from pipesim.ir.graph import NO_MESSAGE, OpGraph
from pipesim.ir.op import Kind
from pipesim.ir.timeline import to_picoseconds
from pipesim.ir.traffic import Traffic

Picoseconds = NDArray[np.int64]


def bind(graph: OpGraph, costs: Costs) -> OpGraph:
    """The graph with every op's duration and every dependency's lag taken from ``costs``."""
    duration = _durations(graph, costs)
    return graph.bound(duration, _lags(graph, costs, duration))


def duration_table(times: StageTimes) -> Picoseconds:
    """Picoseconds by kind and stage, shape (kinds, S). A full backward is exactly its two halves."""
    table = np.zeros((len(Kind), len(times.forward)), np.int64)
    table[Kind.F] = to_picoseconds(times.forward)
    table[Kind.I] = to_picoseconds(times.input_grad)
    table[Kind.W] = to_picoseconds(times.weight_grad)
    table[Kind.B] = table[Kind.I] + table[Kind.W]
    table[Kind.RECOMPUTE] = to_picoseconds(times.recompute)
    table[Kind.REDUCE_GRAD] = to_picoseconds(times.reduce_grad)
    table[Kind.UNSHARD] = to_picoseconds(times.unshard)
    table[Kind.OPT] = to_picoseconds(times.optimizer)
    table[Kind.RECONSTRUCT] = to_picoseconds(times.reconstruct)
    return table


def _durations(graph: OpGraph, costs: Costs) -> Picoseconds:
    table = duration_table(costs.times)
    whole_rank = graph.stage < 0
    duration = table[graph.kind, graph.stage]
    _bind_buckets(graph, costs, duration)
    if whole_rank.any():
        _bind_whole_rank(graph, table, np.flatnonzero(whole_rank), duration)
    if graph.paired.any():
        first = np.flatnonzero(graph.paired)
        both = duration[first] + duration[first + 1]
        duration[first] = np.rint(both * costs.pair_factor).astype(np.int64)
        duration[first + 1] = 0
    return duration


def _bind_buckets(graph: OpGraph, costs: Costs, duration: Picoseconds) -> None:
    """Split a stage's reduction evenly over its buckets, to the picosecond."""
    nodes = np.flatnonzero(graph.kind == Kind.REDUCE_GRAD)
    bucket, total, count = graph.microbatch[nodes], duration[nodes], costs.buckets[graph.stage[nodes]]
    duration[nodes] = (bucket + 1) * total // count - bucket * total // count


def _bind_whole_rank(graph: OpGraph, table: Picoseconds, nodes: NDArray[np.int64], duration: Picoseconds) -> None:
    """An op without a stage costs the sum over the stages that its rank holds."""
    holds = graph.placement.holds.astype(np.int64)
    rank = graph.rank
    for node in nodes:
        owner = rank[node]
        duration[node] = 0 if owner < 0 else int(holds[owner] @ table[graph.kind[node]])


def _lags(graph: OpGraph, costs: Costs, duration: Picoseconds) -> Picoseconds:
    lag = np.zeros(len(graph.dep_node), np.int64)
    travels = np.flatnonzero(graph.dep_message != NO_MESSAGE)
    if len(travels):
        lag[travels] = _hop_times(graph, costs, travels)
    if graph.dep_fraction is not None:
        lag -= np.rint(duration[graph.dep_node] * (1.0 - graph.dep_fraction)).astype(np.int64)
    return lag


def _hop_times(graph: OpGraph, costs: Costs, travels: NDArray[np.int64]) -> Picoseconds:
    source, target = _ends(graph, travels)
    hops, message = costs.hops, costs.sizes.message
    seconds = (
        hops.latency_s[source, target] + message[graph.dep_message[travels]] * hops.seconds_per_byte[source, target]
    )
    return to_picoseconds(seconds)


def _ends(graph: OpGraph, travels: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Sending and receiving rank of the given dependencies."""
    rank = graph.rank
    consumer = np.repeat(np.arange(len(graph)), np.diff(graph.dep_starts))[travels]
    source, target = rank[graph.dep_node[travels]], rank[consumer]
    transfer = np.flatnonzero((graph.kind[consumer] >= Kind.SEND_F) & (graph.kind[consumer] <= Kind.RECV_B))
    if len(transfer):
        _ends_of_exchanges(graph, consumer[transfer], transfer, source, target)
    return source, target


def _ends_of_exchanges(
    graph: OpGraph,
    node: NDArray[np.int64],
    where: NDArray[np.int64],
    source: NDArray[np.int32],
    target: NDArray[np.int32],
) -> None:
    """A blocking transfer waits for both its ends; which of them sends follows from its kind."""
    kind, stage = graph.kind[node], graph.stage[node]
    step = np.where((kind == Kind.SEND_F) | (kind == Kind.RECV_B), 1, -1)
    route = graph.route_of[graph.microbatch[node]]
    own, other = graph.placement.rank_of[route, stage], graph.placement.rank_of[route, stage + step]
    sends = (kind == Kind.SEND_F) | (kind == Kind.SEND_B)
    source[where], target[where] = np.where(sends, own, other), np.where(sends, other, own)


def traffic(graph: OpGraph, costs: Costs) -> Traffic:
    """Which ports the messages and collectives of a graph occupy, and for how long."""
    edges = len(graph.dep_node)
    ports, occupied = np.full((edges, 2), -1, np.int32), np.zeros(edges, np.int64)
    travels = np.flatnonzero(graph.dep_message != NO_MESSAGE)
    source, target = _ends(graph, travels)
    size = costs.sizes.message[graph.dep_message[travels]]
    occupied[travels] = to_picoseconds(size * costs.hops.seconds_per_byte[source, target])
    ports[travels, 0] = costs.hops.send_port[source, target]
    ports[travels, 1] = costs.hops.receive_port[source, target]
    node_ports = np.full((len(graph), 2), -1, np.int32)
    if costs.collective_ports is not None:
        nodes = np.flatnonzero((graph.kind == Kind.REDUCE_GRAD) | (graph.kind == Kind.UNSHARD))
        node_ports[nodes] = costs.collective_ports[graph.rank[nodes]]
    return Traffic(ports, occupied, node_ports)
