"""Timelines: when every op of a graph started and ended. What an engine produces."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipesim.errors import PipesimError
from pipesim.ir.graph import OpGraph

LONGEST = 2**62
"""Picoseconds that a step may take in all: half of what 64 bits hold."""

PICOSECONDS = 10**12
"""Picoseconds in a second; all engine times are integer picoseconds."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """``end`` of every node of ``graph``, int64 picoseconds, shape (n,); its start follows from its duration.

    ``arrived`` is when each dependency arrived, shape (m,), from an engine that lets transfers share links;
    None where lags never change (an ideal network), so that arrivals follow from the ends.
    """

    graph: OpGraph
    end: NDArray[np.int64]
    arrived: NDArray[np.int64] | None = None

    @cached_property
    def start(self) -> NDArray[np.int64]:
        """Start of every node, shape (n,)."""
        return self.end - self.graph.duration

    @cached_property
    def gap(self) -> NDArray[np.int64]:
        """How long each node's stream was idle before it, since the step's start at its head; shape (n,)."""
        gap = self.end - self.graph.duration
        gap[1:] -= self.end[:-1]
        heads = self._heads()
        gap[heads] = self.end[heads] - self.graph.duration[heads] - self.origin
        return gap

    @cached_property
    def waits(self) -> NDArray[np.int64]:
        """Nodes before which their stream was idle, ascending."""
        return np.flatnonzero(self.gap)

    @cached_property
    def binding(self) -> NDArray[np.int64]:
        """For each of `waits`, the dependency that arrived last, the first of them on a tie; -1 for none."""
        return self.bindings(self.waits)

    def bindings(self, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """For each of ``nodes``, the dependency that arrived last, the first of them on a tie; -1 for none."""
        begin, stop = (self.graph.dep_starts[nodes + i].astype(np.int64) for i in (0, 1))
        binding = np.where(stop > begin, begin, -1)
        several = np.flatnonzero(stop > begin + 1)
        if len(several):
            binding[several] = self._last_arrivals(begin[several], stop[several])
        return binding

    def _last_arrivals(self, begin: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of each of several runs of dependencies, none of them empty, the one that arrived last."""
        count = stop - begin
        first = np.cumsum(count) - count
        edges = np.repeat(begin - first, count) + np.arange(count.sum())
        arrival = self.arrival_of(edges)
        latest = np.flatnonzero(arrival == np.repeat(np.maximum.reduceat(arrival, first), count))
        chosen: NDArray[np.int64] = edges[latest[np.searchsorted(latest, first)]]
        return chosen

    @cached_property
    def arrival(self) -> NDArray[np.int64]:
        """When each dependency arrived, shape (m,)."""
        return self.arrived if self.arrived is not None else self.arrival_of(slice(None))

    def arrival_of(self, edges: NDArray[np.int64] | slice | int) -> NDArray[np.int64]:
        """When some dependencies arrived, by their numbers."""
        if self.arrived is not None:
            return self.arrived[edges]
        return self.end[self.graph.dep_node[edges]] + self.graph.dep_lag[edges]

    @cached_property
    def origin(self) -> int:
        """Start of the step: the earliest start of a stream's first node."""
        heads = self._heads()
        return int((self.end[heads] - self.graph.duration[heads]).min()) if len(heads) else 0

    @cached_property
    def finish(self) -> int:
        """End of the step: the latest end of a stream's last node."""
        tails = self.graph.starts[1:][np.diff(self.graph.starts) > 0] - 1
        return int(self.end[tails].max()) if len(tails) else 0

    @property
    def makespan(self) -> int:
        """Last end minus first start, over all streams, in picoseconds."""
        return self.finish - self.origin

    def _heads(self) -> NDArray[np.int64]:
        """First node of every stream that has one."""
        return self.graph.starts[:-1][np.diff(self.graph.starts) > 0]


def to_picoseconds(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Seconds, any shape, rounded to the nearest picosecond.

    Raises:
        PipesimError: a time is longer than engines can count.
    """
    picoseconds = np.asarray(seconds, np.float64) * PICOSECONDS
    check_countable(float(picoseconds.max(initial=0.0)))
    return np.rint(picoseconds).astype(np.int64)


def check_countable(picoseconds: float) -> None:
    """Raise `PipesimError` when a time does not fit into 64 bits of picoseconds."""
    if picoseconds >= LONGEST:
        raise PipesimError(
            f"{picoseconds / PICOSECONDS:.3g} s in one step is more than can be counted in integer picoseconds "
            f"({LONGEST / PICOSECONDS:.3g} s); give the costs in a larger unit"
        )


def to_seconds(picoseconds: int) -> float:
    """Picoseconds as seconds."""
    return picoseconds / PICOSECONDS
