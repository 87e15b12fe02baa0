"""Costs -> durations and lags of a graph, as integer picoseconds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import Costs, Seconds, StageTimes
from pipesim.ir.graph import OpGraph
from pipesim.ir.op import Kind
from pipesim.ir.placement import Placement, Ranks
from pipesim.ir.timeline import to_picoseconds
from pipesim.ir.traffic import Traffic
from pipesim.lowering.messages import hop_ends, hops_of

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
    duration = graph.lookup(table)
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
    table = hop_table(graph.placement, costs)
    lag = table.ravel()[hops_of(graph)] if table.any() else np.zeros(len(graph.dep_node), np.int64)
    if graph.dep_fraction is not None:
        part = np.flatnonzero(graph.dep_fraction < 1.0)
        left = duration[graph.dep_node[part]] * (1.0 - graph.dep_fraction[part])
        lag[part] -= np.rint(left).astype(np.int64)
    return lag


def hop_table(placement: Placement, costs: Costs) -> Picoseconds:
    """Picoseconds of every hop, shape (routes, S, 2); zero where there is no boundary."""
    source, target = hop_ends(placement)
    seconds = costs.hops.latency_s[source, target] + _occupied_s(source, target, costs)
    seconds[:, -1] = 0.0
    return to_picoseconds(seconds)


def _occupied_s(source: Ranks, target: Ranks, costs: Costs) -> Seconds:
    return costs.sizes.message[:, None] * costs.hops.seconds_per_byte[source, target]


def traffic(graph: OpGraph, costs: Costs) -> Traffic:
    """Which ports the messages and collectives of a graph occupy, and for how long."""
    source, target = hop_ends(graph.placement)
    hop = hops_of(graph)
    ports = np.stack([costs.hops.send_port[source, target], costs.hops.receive_port[source, target]], axis=-1)
    occupied = to_picoseconds(_occupied_s(source, target, costs))
    ports[:, -1], occupied[:, -1] = -1, 0
    node_ports = np.full((len(graph), 2), -1, np.int32)
    if costs.collective_ports is not None:
        nodes = np.flatnonzero((graph.kind == Kind.REDUCE_GRAD) | (graph.kind == Kind.UNSHARD))
        node_ports[nodes] = costs.collective_ports[graph.rank[nodes]]
    return Traffic(ports.reshape(-1, 2)[hop], occupied.ravel()[hop], node_ports)
