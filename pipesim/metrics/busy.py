"""Busy time and the three bubble measures, as defined in the vocabulary. Integers in, integers out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.graph import OpGraph
from pipesim.ir.op import Kind, is_any
from pipesim.ir.timeline import Timeline

BUSY_KINDS = (Kind.F, Kind.I, Kind.W, Kind.B, Kind.RECOMPUTE)


@dataclass(frozen=True, eq=False)
class Busy:
    """What the ranks' compute streams do. Arrays of shape (P,), int64 picoseconds.

    ``busy``: time in F, I, W, B or RECOMPUTE; ``recompute``: the last of these alone; ``first`` and ``last``:
    start of the first and end of the last such op (zero on a rank without any).
    """

    busy: NDArray[np.int64]
    recompute: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    step: int

    @cached_property
    def makespan(self) -> int:
        """C: from the first compute op's start to the last one's end, over all ranks."""
        return int(self.last.max() - self.first.min())

    @property
    def span(self) -> NDArray[np.int64]:
        """Per rank, from its first compute op's start to its last one's end."""
        return self.last - self.first

    @property
    def bubble_fraction(self) -> float:
        """1 - sum(busy) / (P C)."""
        return _one_minus(int(self.busy.sum()), len(self.busy) * self.makespan)

    @property
    def bubble_overhead(self) -> float:
        """C / mean(busy) - 1: Megatron's t_pb / t_id (arXiv 2104.04473, section 2.2)."""
        total = int(self.busy.sum())
        return self.makespan * len(self.busy) / total - 1.0 if total else 0.0

    @property
    def span_bubble_fraction(self) -> float:
        """1 - busy / span for the rank with the longest span (arXiv 2401.10241's bubble rate)."""
        longest = int(self.span.argmax())
        return _one_minus(int(self.busy[longest]), int(self.span[longest]))

    def rank_bubble_fraction(self, rank: int) -> float:
        """1 - busy / C for one rank."""
        return _one_minus(int(self.busy[rank]), self.makespan)


def measure(timeline: Timeline) -> Busy:
    """Busy times of a timeline."""
    graph, count = timeline.graph, timeline.graph.compute_nodes
    duration, again = graph.duration[:count], graph.kind[:count] == Kind.RECOMPUTE
    first, last = busy_bounds(graph)
    some = last >= 0
    begin, end = np.zeros(graph.ranks, np.int64), np.zeros(graph.ranks, np.int64)
    begin[some] = timeline.end[first[some]] - duration[first[some]]
    end[some] = timeline.end[last[some]]
    return Busy(
        busy=graph.per_rank(duration * is_any(graph.kind[:count], BUSY_KINDS)),
        recompute=graph.per_rank(duration * again) if again.any() else np.zeros(graph.ranks, np.int64),
        first=begin,
        last=end,
        step=timeline.makespan,
    )


def busy_bounds(graph: OpGraph) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last node of every rank that is busy time; n and -1 on a rank without any. Shape (P,)."""
    nodes = np.flatnonzero(is_any(graph.kind[: graph.compute_nodes], BUSY_KINDS))
    edges = np.searchsorted(nodes, graph.starts[: graph.ranks + 1])
    some = edges[1:] > edges[:-1]
    first, last = np.full(graph.ranks, len(graph)), np.full(graph.ranks, -1)
    first[some], last[some] = nodes[edges[:-1][some]], nodes[edges[1:][some] - 1]
    return first, last


def _one_minus(part: int, whole: int) -> float:
    return 1.0 - part / whole if whole else 0.0
