"""The critical path: the chain of ops and transfers without slack that ends the step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipesim.ir.graph import NO_MESSAGE
from pipesim.ir.op import Kind
from pipesim.ir.timeline import Timeline
from pipesim.metrics.breakdown import binding_edges

P2P = "p2p"


class Segment(NamedTuple):
    """A piece of the critical path: an op (``node``), or the transfer that arrives at ``node``."""

    node: int
    what: str
    start: int
    end: int


def critical_path(timeline: Timeline) -> list[Segment]:
    """Segments from the step's start to its end, without gaps, times in picoseconds.

    Where several chains are tied, the op before on the same stream is preferred, then the first dependency.
    """
    if len(timeline.end) == 0:
        return []
    binding = binding_edges(timeline)
    first = set(timeline.graph.starts.tolist())
    node, moment = int(timeline.end.argmax()), int(timeline.end.max())
    path: list[Segment] = []
    while True:
        start = int(timeline.start[node])
        if moment > start:
            path.append(Segment(node, Kind(timeline.graph.kind[node]).name, start, moment))
        step = _before(timeline, node, start, int(binding[node]), node in first)
        if step is None:
            return path[::-1]
        if step[1] < start:
            path.append(Segment(node, P2P, step[1], start))
        node, moment = step


def shares(timeline: Timeline, path: list[Segment]) -> dict[str, float]:
    """Share of the step time per op kind on the path, largest first, names in alphabetical order on ties."""
    total: dict[str, int] = {}
    for segment in path:
        total[segment.what] = total.get(segment.what, 0) + segment.end - segment.start
    step = timeline.makespan
    ordered = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    return {name: amount / step for name, amount in ordered} if step else {}


def _before(timeline: Timeline, node: int, start: int, edge: int, first: bool) -> tuple[int, int] | None:
    """The node that let ``node`` start, and the moment from which it no longer mattered."""
    if start <= int(timeline.start.min()):
        return None
    if not first and int(timeline.end[node - 1]) == start:
        return node - 1, start
    if edge < 0 or int(timeline.arrival[edge]) != start:
        return None
    producer = int(timeline.graph.dep_node[edge])
    travels = timeline.graph.dep_message[edge] != NO_MESSAGE
    done = int(timeline.end[producer])
    return (producer, done) if travels else (producer, min(start, done))


def on_path(timeline: Timeline, path: list[Segment]) -> np.ndarray:
    """Mask over nodes: which lie on the path as ops. Shape (n,)."""
    mask = np.zeros(len(timeline.end), bool)
    mask[[segment.node for segment in path if segment.what != P2P]] = True
    return mask
