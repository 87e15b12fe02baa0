"""The op graph: every op of a step on its stream, what it waits for, how long it takes.

Nodes are numbered stream by stream in the order in which the stream runs them, so a stream's order needs
no edges. All other waiting is in the dependency lists. An engine needs nothing else: a node starts when
its stream is free and every dependency has arrived, and a dependency arrives ``dep_lag`` after the end of
the node it names. A negative lag means that part of that node is enough (gradient buckets leave before
their backward ends); it never reaches back beyond the node's start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.op import PER_MICROBATCH, Kind, Op, is_any
from pipesim.ir.placement import Placement

Number = TypeVar("Number", np.int64, np.float64)

NO_MESSAGE = -1
"""``dep_message`` of a dependency that moves no data between ranks."""

COMPUTE, COLLECTIVE, HOST, SHARED = "compute", "collective", "host", "shared"
"""Names of streams: a rank's kernels, its data-parallel collectives, its host copies; shared by all ranks."""

UPDATE = "update"
"""Name of a rank's second compute stream, where it has an engine for weight gradients and the optimizer."""


@dataclass(frozen=True)
class Stream:
    """A queue that runs one op at a time; ``rank`` is -1 for a stream that no rank owns."""

    rank: int
    name: str


@dataclass(frozen=True, eq=False)
class OpGraph:
    """Arrays over n nodes and m dependencies; nodes of stream q are ``starts[q]:starts[q + 1]``.

    ``dep_starts`` (n + 1,) delimits each node's dependencies in ``dep_node``, ``dep_fraction`` (the share of
    the producer that must be done), ``dep_message`` (the stage whose boundary message travels, or -1) and
    ``dep_lag`` (picoseconds, set by binding). ``duration`` is in picoseconds, zero until bound. Streams
    ``0..P-1`` are the ranks' compute streams. ``factor`` (n,) multiplies what a node's kind and stage cost; None for
    ones throughout.
    """

    placement: Placement
    route_of: NDArray[np.int32]
    streams: Sequence[Stream]
    starts: NDArray[np.int64]
    kind: NDArray[np.int8]
    stage: NDArray[np.int32]
    microbatch: NDArray[np.int32]
    paired: NDArray[np.bool_]
    duration: NDArray[np.int64]
    dep_starts: NDArray[np.int32]
    dep_node: NDArray[np.int32]
    dep_fraction: NDArray[np.float64] | None
    dep_message: NDArray[np.int32]
    dep_lag: NDArray[np.int64]
    factor: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def ranks(self) -> int:
        """Number of ranks P."""
        return self.placement.ranks

    @property
    def microbatches(self) -> int:
        """Number of micro-batches M."""
        return len(self.route_of)

    @property
    def has_updates(self) -> bool:
        """Whether weights change between micro-batches: there is no flush."""
        return bool(((self.kind == Kind.OPT) & (self.stage >= 0)).any())

    @property
    def stream(self) -> NDArray[np.int32]:
        """Stream of every node."""
        return np.repeat(np.arange(len(self.streams), dtype=np.int32), np.diff(self.starts))

    @property
    def rank(self) -> NDArray[np.int32]:
        """Rank of every node; -1 on shared streams."""
        owner = np.array([stream.rank for stream in self.streams], np.int32)
        return np.repeat(owner, np.diff(self.starts))

    @property
    def compute_nodes(self) -> int:
        """Nodes on compute streams; they come first."""
        return int(self.starts[self.ranks])

    def table_places(self) -> NDArray[np.int32]:
        """Where every node's entry is in a `padded` (kinds, S) table, shape (n,)."""
        place: NDArray[np.int32] = np.multiply(self.kind, self.placement.stages + 1, dtype=np.int32)
        place += self.stage
        return place

    def lookup(self, table: NDArray[Number], variant: NDArray[np.int64] | None = None) -> NDArray[Number]:
        """Entries of a (kinds, S) table for every node, shape (n,); zero for nodes without a stage.

        With ``variant`` (M,), the tables of (K, kinds, S) are for micro-batches of as many kinds, and the first is
        also for whatever belongs to none.
        """
        if variant is None:
            found: NDArray[Number] = padded(table)[self.table_places()]
            return found
        flat = np.concatenate([padded(each) for each in table])
        own = (self.microbatch >= 0) & (is_any(self.kind, PER_MICROBATCH))
        number = np.where(own, variant[np.where(own, self.microbatch, 0)], 0)
        chosen: NDArray[Number] = flat[self.table_places() + number * (len(flat) // len(table))]
        return chosen

    def per_rank(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sums of ``values``, one for each node of the compute streams, by rank; shape (P,)."""
        starts = self.starts[: self.ranks + 1]
        some = starts[1:] > starts[:-1]
        total = np.zeros(self.ranks, np.int64)
        if some.any():
            total[some] = np.add.reduceat(values, starts[:-1][some])
        return total

    def op(self, node: int) -> Op:
        """The op that a node is."""
        return Op(int(self.stage[node]), Kind(self.kind[node]), int(self.microbatch[node]))

    def dependencies(self, node: int) -> NDArray[np.int32]:
        """Nodes that ``node`` waits for, besides the one before it on its stream."""
        return self.dep_node[self.dep_starts[node] : self.dep_starts[node + 1]]

    def bound(self, duration: NDArray[np.int64], dep_lag: NDArray[np.int64]) -> OpGraph:
        """The same graph with other durations and lags, in picoseconds."""
        return replace(self, duration=duration, dep_lag=dep_lag)

    def describe(self) -> str:
        """One line per node: stream, token, what it waits for. For reading and diffing small graphs."""
        lines = []
        owner = self.stream
        for node in range(len(self)):
            stream = self.streams[owner[node]]
            deps = ", ".join(str(self.op(int(d))) for d in self.dependencies(node))
            lines.append(f"{stream.name}[{stream.rank}] {self.op(node)}" + (f" <- {deps}" if deps else ""))
        return "\n".join(lines)


def padded(table: NDArray[Number]) -> NDArray[Number]:
    """A (kinds, S) table with a zero after each row, flat, so that stage -1 finds the zero before its row."""
    wide = np.zeros((table.shape[0], table.shape[1] + 1), table.dtype)
    wide[:, :-1] = table
    return wide.ravel()
