"""Observed times in the place of simulated ones: the timeline of a graph whose ops were measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.graph import OpGraph
from pipesim.ir.timeline import Timeline, to_picoseconds


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
