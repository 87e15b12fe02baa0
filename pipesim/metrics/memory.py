"""Memory of every rank over the step: what is resident, what comes and goes, and when it peaks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import SLOTS, Costs
from pipesim.ir.graph import OpGraph
from pipesim.ir.op import Kind, is_any
from pipesim.ir.timeline import PICOSECONDS, Timeline
from pipesim.lowering.memory import MemoryEffects, activation_effects
from pipesim.metrics import beside

Bytes = NDArray[np.float64]

_ROUNDING = 1e-12
"""Levels this close, relatively, are the same bytes summed in another order (n ops: about n x 1e-16)."""


@dataclass(frozen=True, eq=False)
class Resident:
    """Bytes that a rank holds throughout the step, each of shape (P,)."""

    weights: Bytes
    gradients: Bytes
    optimizer: Bytes
    buffers: Bytes

    @property
    def total(self) -> Bytes:
        """Sum of the four."""
        return self.weights + self.gradients + self.optimizer + self.buffers


@dataclass(frozen=True, eq=False)
class Peak:
    """Per rank, shape (P,): largest memory, when (picoseconds) and with which op it is reached first.

    ``kind`` is -1 on ranks without ops; ``stage`` and ``microbatch`` as in the graph.
    """

    bytes: Bytes
    activations: Bytes
    at: NDArray[np.int64]
    kind: NDArray[np.int64]
    stage: NDArray[np.int64]
    microbatch: NDArray[np.int64]


def measure(timeline: Timeline, costs: Costs) -> tuple[Resident, Peak]:
    """What every rank holds and where it peaks, the allocator's losses included in the buffers."""
    fixed = resident(timeline.graph, costs)
    found = peaks(timeline, activation_effects(timeline.graph, costs.sizes, costs.variants), fixed)
    fixed = replace(fixed, buffers=fixed.buffers + costs.fragmentation * found.bytes)
    return fixed, replace(found, bytes=fixed.total + found.activations)


def resident(graph: OpGraph, costs: Costs) -> Resident:
    """Weights, gradients and optimizer state of all stages that a rank holds, on any route."""
    holds, sizes = graph.placement.holds.astype(np.float64), costs.sizes
    return Resident(
        weights=holds @ sizes.weights,
        gradients=holds @ sizes.gradients,
        optimizer=holds @ sizes.optimizer,
        buffers=costs.buffers_bytes + _gathered(holds, costs),
    )


def _gathered(holds: Bytes, costs: Costs) -> Bytes:
    """Buffers for whole weights and gradients of sharded stages, shape (P,): of two stages, as
    `pipesim.lowering.data_parallel` has them; a rank with a single stage works through its layers anew for every
    micro-batch.
    """
    stage, layers = ((holds * each).max(axis=1, initial=0.0) for each in (costs.sizes.unsharded, costs.sizes.layerwise))
    return np.asarray(np.where(holds.sum(axis=1) > 1, SLOTS * stage, np.minimum(stage, layers)))


def peaks(timeline: Timeline, effects: MemoryEffects, fixed: Resident) -> Peak:
    """Peak of every rank; an op takes its bytes before it runs and gives its bytes back after.

    Of levels that differ by the rounding of sums alone, the first is the peak.
    """
    starts, ranks = timeline.graph.starts, timeline.graph.ranks
    activations, at, node = np.zeros(ranks), np.zeros(ranks, np.int64), np.full(ranks, -1)
    by_clock = beside.works_beside(timeline.graph)
    for rank in range(ranks):
        first, last = int(starts[rank]), int(starts[rank + 1])
        if by_clock:
            activations[rank], at[rank], node[rank] = beside.peak(timeline, effects, rank)
            continue
        if first == last:
            continue
        level = during(effects, first, last)
        top = int(np.argmax(level >= level.max() * (1 - _ROUNDING)))
        activations[rank], at[rank], node[rank] = level[top], timeline.start[first + top], first + top
    return Peak(fixed.total + activations, activations, at, *_ops(timeline.graph, node))


def _ops(graph: OpGraph, node: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Kind, stage and micro-batch of nodes, -1 where there is none."""
    some = node >= 0
    columns = np.full((3, len(node)), -1, np.int64)
    columns[:, some] = [column[node[some]] for column in (graph.kind, graph.stage, graph.microbatch)]
    return list(columns)


def during(effects: MemoryEffects, first: int, last: int) -> Bytes:
    """Activation bytes held while each of a rank's ops runs, in program order."""
    takes, gives = effects.takes[first:last], effects.gives[first:last]
    level: Bytes = np.cumsum(takes - gives) + gives
    return level


def curve(timeline: Timeline, effects: MemoryEffects, rank: int) -> tuple[NDArray[np.float64], Bytes]:
    """Activation bytes of a rank as a step curve: times in seconds and the level from each time on."""
    if beside.works_beside(timeline.graph):
        _, moments, change = beside.changes(timeline, effects, rank)
    else:
        moments, change = _in_order(timeline, effects, rank)
    level = np.cumsum(change)
    keep = np.append(moments[1:] != moments[:-1], True)[: len(moments)]
    return moments[keep] / PICOSECONDS, level[keep]


def _in_order(timeline: Timeline, effects: MemoryEffects, rank: int) -> tuple[NDArray[np.int64], Bytes]:
    first, last = int(timeline.graph.starts[rank]), int(timeline.graph.starts[rank + 1])
    moments = np.stack([timeline.start[first:last], timeline.end[first:last]], axis=1).ravel()
    change = np.stack([effects.takes[first:last], -effects.gives[first:last]], axis=1).ravel()
    return moments, change


def in_flight(graph: OpGraph) -> Bytes:
    """Largest number of (stage, micro-batch) activations held at once, in units of a rank's share, shape (P,).

    Counted from F's start until W's (or B's) end.
    """
    count, starts = graph.compute_nodes, graph.starts[: graph.ranks + 1]
    takes = (graph.kind[:count] == Kind.F).astype(np.int8)
    gives = is_any(graph.kind[:count], (Kind.W, Kind.B)).astype(np.int8)
    cut = graph.placement.cut
    if cut is not None:
        takes, gives = (effect * cut.activation[graph.stage[:count]] for effect in (takes, gives))
    first = np.flatnonzero(graph.paired[:count])
    takes[first] += takes[first + 1]
    takes[first + 1] = 0
    gives[first + 1] += gives[first]
    gives[first] = 0
    level = np.cumsum(takes - gives, dtype=np.int32)
    before = np.concatenate([[0], level])[starts[:-1]]
    level += gives
    some = np.flatnonzero(np.diff(starts))
    most = np.zeros(graph.ranks)
    if len(some):
        most[some] = np.maximum.reduceat(level, starts[some]) - before[some]
    return most / graph.placement.share_activations
