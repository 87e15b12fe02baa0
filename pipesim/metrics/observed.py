"""Observed times in the place of simulated ones: the timeline of a graph, or just a table of ops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.graph import OpGraph
from pipesim.ir.op import Kind
from pipesim.ir.timeline import Timeline, to_picoseconds
from pipesim.metrics.busy import BUSY_KINDS, Busy

if TYPE_CHECKING:
    import pandas as pd


def timeline_of(graph: OpGraph, start_s: NDArray[np.float64], end_s: NDArray[np.float64]) -> Timeline:
    """The timeline in which the nodes of ``graph`` ran as observed, in seconds, shape (n,).

    Durations become the observed ones; the two ops of a pair run from the first one's start to the last one's
    end. A message is under way for its bound latency, if its receiver did not start earlier.
    """
    start, end = to_picoseconds(start_s), to_picoseconds(end_s)
    first = np.flatnonzero(graph.paired)
    start[first] = np.minimum(start[first], start[first + 1])
    end[first] = end[first + 1] = np.maximum(end[first], end[first + 1])
    start[first + 1] = end[first + 1]
    consumer = np.repeat(np.arange(len(graph)), np.diff(graph.dep_starts))
    sent = end[graph.dep_node]
    arrival = np.maximum(np.minimum(sent + graph.dep_lag, start[consumer]), sent)
    return Timeline(graph.bound(end - start, graph.dep_lag), end, arrival)


def busy_of(frame: pd.DataFrame) -> Busy:
    """Busy times from a table of ops (rank, kind, start_s, end_s); overlapping ops of a rank count once.

    The step is from the first start to the last end of all rows. Ranks are 0 to the largest in the table.
    """
    ranks = int(frame["rank"].max()) + 1
    busy, recompute, first, last = (np.zeros(ranks, np.int64) for _ in range(4))
    start, end = (to_picoseconds(frame[name].to_numpy()) for name in ("start_s", "end_s"))
    kind, rank = frame["kind"].astype(str).to_numpy(), frame["rank"].to_numpy()
    names = [each.name for each in BUSY_KINDS]
    for r in range(ranks):
        own = (rank == r) & np.isin(kind, names)
        if not own.any():
            continue
        busy[r] = covered(start[own], end[own])
        again = own & (kind == Kind.RECOMPUTE.name)
        recompute[r] = covered(start[again], end[again])
        first[r], last[r] = start[own].min(), end[own].max()
    return Busy(busy, recompute, first, last, int(end.max() - start.min()))


def covered(start: NDArray[np.int64], end: NDArray[np.int64]) -> int:
    """Length of the union of intervals."""
    order = np.argsort(start, kind="stable")
    start, end = start[order], end[order]
    reached = np.maximum.accumulate(np.concatenate([start[:1], end]))[:-1]
    return int(np.maximum(end - np.maximum(start, reached), 0).sum())
