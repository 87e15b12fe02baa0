"""Idle time of the compute streams: where it lies in each rank's step, and what was under way meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.graph import COLLECTIVE, NO_MESSAGE, OpGraph
from pipesim.ir.op import Kind, is_any
from pipesim.ir.timeline import Timeline
from pipesim.metrics.busy import busy_bounds

Picoseconds = NDArray[np.int64]
Indices = NDArray[np.int64]

COLLECTIVES = (Kind.UNSHARD, Kind.REDUCE_GRAD)
NOTHING = -1
"""Stands for no node and no dependency."""

BEFORE, BETWEEN, AFTER = range(3)
"""Where a gap lies: before its rank's first busy op, between two of them, or after the last one."""


@dataclass(frozen=True, eq=False)
class Gaps:
    """All stretches without work on the P compute streams, from the step's start to its end.

    The first k gaps are those before ``timeline.waits[:k]``, rank by rank and in order of time; of rank r,
    ``[begin[r], first[r])`` lie before its first busy op, ``[first[r], last[r])`` between its first and last
    one, ``[last[r], end[r])`` after it. Gap k + r is the one after the last op of rank r; it may be empty.
    """

    timeline: Timeline
    begin: Indices
    first: Indices
    last: Indices
    end: Indices

    def __len__(self) -> int:
        return self.count + self.timeline.graph.ranks

    @property
    def count(self) -> int:
        """Gaps that an op ends (k)."""
        return int(self.end[-1])

    @property
    def edge(self) -> Indices:
        """The dependency that arrives at the end of each gap that an op ends; -1 for none. Shape (k,)."""
        return self.timeline.binding[: self.count]

    @cached_property
    def rank(self) -> Indices:
        """Whose each gap is, shape (k + P,)."""
        ranks = np.arange(self.timeline.graph.ranks)
        return np.concatenate([np.repeat(ranks, self.end - self.begin), ranks])

    @cached_property
    def phase(self) -> Indices:
        """`BEFORE`, `BETWEEN` or `AFTER`, shape (k + P,)."""
        ranks = self.timeline.graph.ranks
        sizes = [self.first - self.begin, self.last - self.first, self.end - self.last]
        count = np.stack(sizes, axis=1).ravel()
        phases = np.tile([BEFORE, BETWEEN, AFTER], ranks)
        return np.concatenate([np.repeat(phases, count), np.full(ranks, AFTER)])

    def bounds(self) -> tuple[Picoseconds, Picoseconds]:
        """When each gap begins and ends, shape (k + P,)."""
        timeline, node = self.timeline, self.timeline.waits[: self.count]
        end = timeline.end[node] - timeline.graph.duration[node]
        last = last_ends(timeline)
        finish = np.full(len(last), timeline.finish)
        return np.concatenate([end - timeline.gap[node], last]), np.concatenate([end, finish])


def gaps(timeline: Timeline) -> Gaps:
    """The gaps of a step."""
    graph, waits = timeline.graph, timeline.waits
    first, last = busy_bounds(graph)
    begin, end = (waits.searchsorted(graph.starts[i : graph.ranks + i]) for i in (0, 1))
    after = np.maximum(begin, waits.searchsorted(last, side="right"))
    return Gaps(timeline, begin, np.minimum(after, waits.searchsorted(first, side="right")), after, end)


def last_ends(timeline: Timeline) -> Picoseconds:
    """End of each rank's last op; the step's start on a rank without any. Shape (P,)."""
    starts = timeline.graph.starts[: timeline.graph.ranks + 1]
    some = np.flatnonzero(np.diff(starts))
    last = np.full(timeline.graph.ranks, timeline.origin)
    last[some] = timeline.end[starts[some + 1] - 1]
    return last


def flight(timeline: Timeline, edge: Indices) -> Picoseconds:
    """How long the messages of some dependencies were under way; zero for what is no message."""
    graph = timeline.graph
    if len(graph.dep_node) == 0:
        return np.zeros(len(edge), np.int64)
    time = timeline.arrival_of(edge) - timeline.end[graph.dep_node[edge]]
    time[(edge == NOTHING) | (graph.dep_message[edge] == NO_MESSAGE)] = 0
    return time


def producers(graph: OpGraph, edge: Indices) -> Indices:
    """The nodes that some dependencies name."""
    if len(graph.dep_node) == 0:
        return np.full(len(edge), NOTHING)
    return np.where(edge == NOTHING, NOTHING, graph.dep_node[edge])


def is_kind(graph: OpGraph, node: Indices, kinds: Sequence[Kind]) -> NDArray[np.bool_]:
    """Which nodes are of one of a few kinds; `NOTHING` is of none."""
    found: NDArray[np.bool_] = is_any(graph.kind[node], kinds) & (node != NOTHING)
    return found


class Pieces(NamedTuple):
    """Parts of gaps: of which gap and rank, from when to when in picoseconds, and a node or `NOTHING`."""

    gap: Indices
    rank: Indices
    begin: Picoseconds
    end: Picoseconds
    node: Indices

    def where(self, chosen: NDArray[np.bool_]) -> Pieces:
        """Some of them."""
        return Pieces(*(column[chosen] for column in self))


def joined(pieces: Sequence[Pieces]) -> Pieces:
    """All of them in one."""
    return Pieces(*(np.concatenate(columns) for columns in zip(*pieces, strict=True)))


def exposed_collectives(found: Gaps) -> Pieces:
    """Idle time during which a rank's own collectives run, by collective.

    Only what waits for them counts: gaps that a collective ends, and all after the last busy op.
    """
    none = np.empty(0, np.int64)
    return joined([Pieces(none, none, none, none, none), *_exposed_collectives(found)])


def _exposed_collectives(found: Gaps) -> Iterator[Pieces]:
    graph = found.timeline.graph
    streams = [(i, s.rank) for i, s in enumerate(graph.streams) if s.name == COLLECTIVE]
    if not streams:
        return
    begin, end = found.bounds()
    for stream, rank in streams:
        gap = exposed_gaps(found, rank)
        piece = _overlaps(found.timeline, begin[gap], end[gap], *graph.starts[stream : stream + 2].tolist())
        yield piece._replace(gap=gap[piece.gap], rank=np.full(len(piece.gap), rank))


def exposed_gaps(found: Gaps, rank: int) -> Indices:
    """Gaps of a rank in which its own collectives count."""
    first, last, end = int(found.first[rank]), int(found.last[rank]), int(found.end[rank])
    graph = found.timeline.graph
    between = first + np.flatnonzero(is_kind(graph, producers(graph, found.edge[first:last]), COLLECTIVES))
    return np.concatenate([between, np.arange(last, end), [found.count + rank]])


def _overlaps(timeline: Timeline, begin: Picoseconds, end: Picoseconds, first: int, last: int) -> Pieces:
    """Where sorted intervals overlap the nodes ``first..last-1`` of one stream; none is empty."""
    done = timeline.end[first:last]
    start = done - timeline.graph.duration[first:last]
    low = done.searchsorted(begin, side="right")
    count = np.maximum(start.searchsorted(end, side="left") - low, 0)
    gap = np.repeat(np.arange(len(begin)), count)
    node = np.arange(len(gap)) + np.repeat(low - np.cumsum(count) + count, count)
    pieces = Pieces(gap, gap, np.maximum(begin[gap], start[node]), np.minimum(end[gap], done[node]), node + first)
    return pieces.where(pieces.end > pieces.begin)
