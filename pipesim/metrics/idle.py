"""Why ranks idle: every idle interval of every compute stream, its cause, and what it waits for.

A cause is the immediate one. Before a rank's first op idle time is warm-up. Between its ops it is exposed
communication for as long as the transfer or collective that ends the wait is under way, and dependency (another
op is not done) before that. After its last op it is an exposed collective while the rank's own collectives run,
else drain as long as other ranks compute, and synchronisation from then on.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.op import Kind
from pipesim.ir.timeline import Timeline
from pipesim.metrics.busy import busy_bounds
from pipesim.metrics.gaps import (
    AFTER,
    BETWEEN,
    COLLECTIVES,
    NOTHING,
    Gaps,
    Indices,
    Picoseconds,
    Pieces,
    exposed_collectives,
    flight,
    gaps,
    is_kind,
    joined,
    producers,
)


class Cause(enum.IntEnum):
    """Why a rank idles."""

    WARMUP = 0
    DEPENDENCY = 1
    EXPOSED_P2P = 2
    EXPOSED_COLLECTIVE = 3
    DRAIN = 4
    SYNCHRONISATION = 5


class Idle(NamedTuple):
    """Idle intervals in picoseconds, rank by rank and in order of time; arrays of shape (k,).

    ``node`` is the op that the rank waits for, or -1 where it waits for a message: that of dependency ``edge``,
    which is -1 otherwise.
    """

    rank: Indices
    begin: Picoseconds
    end: Picoseconds
    cause: NDArray[np.int8]
    node: Indices
    edge: Indices

    @property
    def length(self) -> Picoseconds:
        """How long each is."""
        return self.end - self.begin


def idle(timeline: Timeline) -> Idle:
    """All idle intervals of a step. Together with a rank's ops they fill the step exactly."""
    found = gaps(timeline)
    begin, end = found.bounds()
    sent = _under_way(found, end - begin)
    travel, covered = _tails(found, end, sent), exposed_collectives(found)
    rest = _uncovered(found, begin, end - sent, covered)
    active, late = _cut(found, rest)
    reason = np.array([Cause.WARMUP, Cause.DEPENDENCY, Cause.DRAIN], np.int8)[found.phase]
    awaited = _awaited(timeline, found)
    kinds: list[tuple[Pieces, NDArray[np.int8] | Cause]] = [
        (travel, Cause.EXPOSED_P2P),
        (covered, Cause.EXPOSED_COLLECTIVE),
        (active._replace(node=awaited[active.gap]), reason[active.gap]),
        (late._replace(node=awaited[late.gap]), Cause.SYNCHRONISATION),
    ]
    pieces = joined([piece for piece, _ in kinds])
    cause = np.concatenate([np.full(len(piece.gap), why, np.int8) for piece, why in kinds])
    edge = _messages(found, pieces, cause)
    order = np.lexsort((pieces.begin, pieces.rank))
    order = order[(pieces.end > pieces.begin)[order]]
    pieces = Pieces(*(column[order] for column in pieces))
    node, edge = np.where(edge[order] == NOTHING, pieces.node, NOTHING), edge[order]
    return Idle(pieces.rank, pieces.begin, pieces.end, cause[order], node, edge)


def _messages(found: Gaps, pieces: Pieces, cause: NDArray[np.int8]) -> Indices:
    """The message that each piece waits for; after its last op a rank may still be sending."""
    edge = np.append(found.edge, np.full(found.timeline.graph.ranks, NOTHING))
    message = flight(found.timeline, edge) > 0
    sending = (message & (found.phase == AFTER))[pieces.gap] & (cause != Cause.EXPOSED_COLLECTIVE)
    chosen = sending | (cause == Cause.EXPOSED_P2P)
    return np.where(chosen, edge[pieces.gap], NOTHING)


def _under_way(found: Gaps, length: Picoseconds) -> Picoseconds:
    """How long at the end of each gap the message that ends it is under way."""
    time = np.zeros(len(found), np.int64)
    time[: found.count] = flight(found.timeline, found.edge)
    time[found.phase != BETWEEN] = 0
    return np.minimum(time, length)


def _tails(found: Gaps, end: Picoseconds, amount: Picoseconds) -> Pieces:
    """The last so many picoseconds of each gap, where there are any."""
    gap = np.flatnonzero(amount)
    return Pieces(gap, found.rank[gap], (end - amount)[gap], end[gap], np.full(len(gap), NOTHING))


def _uncovered(found: Gaps, begin: Picoseconds, end: Picoseconds, covered: Pieces) -> Pieces:
    """What is left of gaps ``begin..end`` without the pieces that are covered; some may be empty.

    Every gap's own begin and the ends of its covered pieces, in order, pair up with the begins of these and
    the gap's own end.
    """
    gap = np.concatenate([np.arange(len(found)), covered.gap])
    begins, ends = np.concatenate([begin, covered.end]), np.concatenate([end, covered.begin])
    at = np.lexsort((begins, gap))
    gap, begins, ends = gap[at], begins[at], ends[np.lexsort((ends, gap))]
    return Pieces(gap, found.rank[gap], begins, ends, np.full(len(gap), NOTHING))


def _cut(found: Gaps, pieces: Pieces) -> tuple[Pieces, Pieces]:
    """Split off what lies after the last op of a rank and of all ranks; empty pieces may end before they begin."""
    _, last = busy_bounds(found.timeline.graph)
    over = int(found.timeline.end[last[last >= 0]].max(initial=found.timeline.origin))
    after = found.phase[pieces.gap] == AFTER
    late = pieces.where(after)
    end = np.where(after, np.minimum(pieces.end, over), pieces.end)
    return pieces._replace(end=end), late._replace(begin=np.maximum(late.begin, over))


def _awaited(timeline: Timeline, found: Gaps) -> Indices:
    """For each gap the op that it waits for: what a barrier or a collective waits for, not these themselves.

    Where nothing is waited for but the end of the step, the op that ends the step.
    """
    graph = timeline.graph
    node = producers(graph, found.edge)
    meeting = np.flatnonzero(is_kind(graph, node, (*COLLECTIVES, Kind.BARRIER)))
    behind = producers(graph, timeline.bindings(node[meeting]))
    node[meeting] = np.where(behind == NOTHING, node[meeting], behind)
    final = int(timeline.end.argmax()) if len(timeline.end) else NOTHING
    return np.concatenate([np.where(node == NOTHING, final, node), np.full(graph.ranks, final)])
