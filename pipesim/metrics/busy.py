"""Busy time and the three bubble measures, as defined in the vocabulary. Integers in, integers out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.op import Kind
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
    graph = timeline.graph
    count = graph.compute_nodes
    kind, duration = graph.kind[:count], graph.duration[:count]
    is_busy = np.isin(kind, BUSY_KINDS)
    owner = graph.rank[:count]
    ranks = graph.ranks
    first, last = np.zeros(ranks, np.int64), np.zeros(ranks, np.int64)
    nodes = np.flatnonzero(is_busy)
    edges = np.searchsorted(nodes, graph.starts[: ranks + 1])
    some = edges[1:] > edges[:-1]
    first[some] = timeline.start[nodes[edges[:-1][some]]]
    last[some] = timeline.end[nodes[edges[1:][some] - 1]]
    return Busy(
        busy=_per_rank(owner, np.where(is_busy, duration, 0), ranks),
        recompute=_per_rank(owner, np.where(kind == Kind.RECOMPUTE, duration, 0), ranks),
        first=first,
        last=last,
        step=timeline.makespan,
    )


def _per_rank(owner: NDArray[np.int32], value: NDArray[np.int64], ranks: int) -> NDArray[np.int64]:
    total = np.zeros(ranks, np.int64)
    np.add.at(total, owner, value)
    return total


def _one_minus(part: int, whole: int) -> float:
    return 1.0 - part / whole if whole else 0.0
