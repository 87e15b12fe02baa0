"""What offloading activations costs and takes up: copies, time that ranks wait for them, host memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import Costs
from pipesim.ir.graph import HOST, OpGraph
from pipesim.ir.op import BACKWARD_KINDS, Kind, is_any
from pipesim.ir.timeline import PICOSECONDS, Timeline

Floats = NDArray[np.float64]


def offload_section(timeline: Timeline, costs: Costs) -> dict[str, Any] | None:
    """The ``offload`` part of the result; None without copies to the host.

    ``k``: how long copying all activations out and back takes, over computing (T_o / T_c; arXiv 2503.01328, section
    3). ``share``: activations that are copied, of all. ``copied_bytes``: what one GPU of each rank sends to its host
    in a step, the mean over ranks. ``waited_s``: how long ops waited for copies, the mean.
    ``host_peak_bytes``: host memory per rank and GPU; ``node_peak_bytes``: of the fullest node, if every GPU keeps
    what it needs at most; ``host_capacity_bytes`` and ``host_fits``: of a node, None where it is not limited.
    """
    graph = timeline.graph
    out = np.flatnonzero(graph.kind == Kind.OFFLOAD)
    if not len(out):
        return None
    kept = costs.at(lambda each: each.sizes.activations, graph.stage[out], graph.microbatch[out])
    peaks = host_peaks(timeline, costs)
    host = costs.host
    per_node = peaks if host is None or host.gpus is None else host.gpus @ peaks
    node = float(per_node.max(initial=0.0))
    capacity = None if host is None else host.memory_bytes
    return {
        "k": offload_ratio(costs),
        "share": len(out) / int((graph.kind == Kind.F).sum()),
        "copies": len(out),
        "copied_bytes": float(kept.sum()) / graph.ranks,
        "waited_s": float(waited(timeline).mean()) / PICOSECONDS,
        "host_peak_bytes": [float(peak) for peak in peaks],
        "node_peak_bytes": None if host is None or host.gpus is None else node,
        "host_capacity_bytes": capacity,
        "host_fits": None if capacity is None else node <= capacity,
    }


def offload_ratio(costs: Costs) -> float:
    """k = T_o / T_c: a round trip of all activations to the host, over their forward and backward."""
    times, host = costs.times, costs.host
    compute = times.forward + times.input_grad + times.weight_grad + times.recompute - times.overlap
    return 0.0 if host is None else float((host.offload_s + host.reload_s).sum() / compute.sum())


def shortest_round_trip(costs: Costs) -> float:
    """Seconds that the smallest activations take to the host and back; 0 where copies are free."""
    trips = np.zeros(0) if costs.host is None else costs.host.offload_s + costs.host.reload_s
    return float(trips[trips > 0].min(initial=np.inf)) if (trips > 0).any() else 0.0


def host_peaks(timeline: Timeline, costs: Costs) -> Floats:
    """Most bytes in host memory for one GPU of each rank, shape (P,): from an offload's start to a reload's end."""
    graph = timeline.graph
    peaks = np.zeros(graph.ranks)
    for rank, nodes in _host_nodes(graph):
        arrives = graph.kind[nodes] == Kind.OFFLOAD
        size = costs.at(lambda each: each.sizes.activations, graph.stage[nodes], graph.microbatch[nodes])
        moment = np.where(arrives, timeline.start[nodes], timeline.end[nodes])
        level = np.cumsum(np.where(arrives, size, -size)[np.lexsort((arrives, moment))])
        peaks[rank] = max(peaks[rank], float(level.max(initial=0.0)))
    return peaks


def waited(timeline: Timeline) -> NDArray[np.int64]:
    """Picoseconds for which ops of each rank waited, last of all, for a copy; shape (P,).

    Backwards wait for their activations, forwards until memory is free. Forwards before a rank's first backward are
    not counted: they wait in bubbles.
    """
    graph, nodes = timeline.graph, timeline.waits
    mine = nodes < graph.compute_nodes
    mine[mine] = nodes[mine] >= _first_backward(graph)[graph.rank[nodes[mine]]]
    edge, gap = timeline.binding[mine], timeline.gap[nodes[mine]]
    copies = edge >= 0
    copies[copies] = is_any(graph.kind[graph.dep_node[edge[copies]]], (Kind.OFFLOAD, Kind.RELOAD))
    total = np.zeros(graph.ranks, np.int64)
    np.add.at(total, graph.rank[nodes[mine][copies]], gap[copies])
    return total


def _first_backward(graph: OpGraph) -> NDArray[np.int64]:
    """The node of every rank that needs activations first, shape (P,)."""
    first = graph.starts[1 : graph.ranks + 1].copy()
    nodes = np.flatnonzero(is_any(graph.kind[: graph.compute_nodes], (Kind.RECOMPUTE, *BACKWARD_KINDS)))
    np.minimum.at(first, graph.rank[nodes], nodes)
    return first


def _host_nodes(graph: OpGraph) -> list[tuple[int, NDArray[np.int64]]]:
    """Nodes of every host stream, with its rank."""
    return [
        (stream.rank, np.arange(graph.starts[index], graph.starts[index + 1]))
        for index, stream in enumerate(graph.streams)
        if stream.name == HOST
    ]
