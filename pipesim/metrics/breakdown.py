"""Where each rank's step time went: eight parts that sum to it exactly.

Idle time is the intervals of `pipesim.metrics.idle` summed by cause; synchronisation counts as drain. Collectives
inside an op (tensor, context or expert parallel) are taken out of compute and counted as exposed collectives.
"""

from __future__ import annotations

import numpy as np

from pipesim.costs.costs import StageTimes, Variants
from pipesim.ir.graph import OpGraph
from pipesim.ir.op import Kind
from pipesim.ir.timeline import Timeline, to_picoseconds
from pipesim.metrics.gaps import (
    BETWEEN,
    Gaps,
    Indices,
    Picoseconds,
    exposed_collectives,
    flight,
    gaps,
    last_ends,
)

PARTS = (
    "compute",
    "recompute",
    "exposed_p2p",
    "exposed_collective",
    "warmup",
    "dependency",
    "drain",
    "optimizer",
)


def breakdown(
    timeline: Timeline, times: StageTimes | None = None, variants: Variants | None = None
) -> dict[str, Picoseconds]:
    """Picoseconds per part, each of shape (P,); on every rank they sum to the step time.

    ``times`` tells how much of the ops is collective communication inside them; nothing when left out. Where
    micro-batches are not all alike, their ``variants`` tell it.
    """
    parts = {name: np.zeros(timeline.graph.ranks, np.int64) for name in PARTS}
    _work(timeline.graph, parts)
    _idle(timeline, parts)
    if times is not None:
        _take_out_collectives(timeline.graph, times, variants, parts)
    return parts


def _work(graph: OpGraph, parts: dict[str, Picoseconds]) -> None:
    count = graph.compute_nodes
    kind, duration = graph.kind[:count], graph.duration[:count]
    parts["compute"] += graph.per_rank(duration)
    for name, what in (("recompute", Kind.RECOMPUTE), ("optimizer", Kind.OPT), ("optimizer", Kind.RECONSTRUCT)):
        chosen = kind == what
        if chosen.any():
            amount = graph.per_rank(duration * chosen)
            parts[name] += amount
            parts["compute"] -= amount


def _idle(timeline: Timeline, parts: dict[str, Picoseconds]) -> None:
    """Idle time by cause, as in `pipesim.metrics.idle`; synchronisation is part of the drain."""
    found = gaps(timeline)
    length = timeline.gap[timeline.waits[: found.count]]
    exposed = np.minimum(length, flight(timeline, found.edge))
    parts["warmup"] += _sums(length, found.begin, found.first)
    parts["exposed_p2p"] += _sums(exposed, found.first, found.last)
    parts["dependency"] += _sums(length, found.first, found.last) - parts["exposed_p2p"]
    parts["drain"] += _sums(length, found.last, found.end) + timeline.finish - last_ends(timeline)
    _collectives(found, parts)


def _sums(values: Picoseconds, first: Indices, last: Indices) -> Picoseconds:
    """Sums of ``values[first[i]:last[i]]``."""
    until = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=until[1:])
    return until[last] - until[first]


def _collectives(found: Gaps, parts: dict[str, Picoseconds]) -> None:
    """Count the time during which a rank waits for its own collectives as theirs."""
    piece = exposed_collectives(found)
    length, between = piece.end - piece.begin, found.phase[piece.gap] == BETWEEN
    np.add.at(parts["exposed_collective"], piece.rank, length)
    for name, chosen in (("dependency", between), ("drain", ~between)):
        np.subtract.at(parts[name], piece.rank[chosen], length[chosen])


def _take_out_collectives(
    graph: OpGraph, times: StageTimes, variants: Variants | None, parts: dict[str, Picoseconds]
) -> None:
    if variants is None:
        tables, of = _inside(times), None
    else:
        tables, of = variants.rows(lambda each: _inside(each.times)).swapaxes(0, 1), variants.of
    for name, table in zip(("recompute", "compute"), tables, strict=True):
        if table.any():
            amount = graph.per_rank(graph.lookup(table, of)[: graph.compute_nodes])
            amount = np.minimum(amount, parts[name])
            parts[name] -= amount
            parts["exposed_collective"] += amount


def _inside(times: StageTimes) -> Picoseconds:
    """Communication inside recomputations, and inside compute ops, by kind and stage; shape (2, kinds, S)."""
    again, table = tables = np.zeros((2, len(Kind), len(times.forward)), np.int64)
    again[Kind.RECOMPUTE] = to_picoseconds(times.recompute_collective)
    table[Kind.F] = to_picoseconds(times.forward_collective)
    table[Kind.I] = to_picoseconds(times.input_grad_collective)
    table[Kind.W] = to_picoseconds(times.weight_grad_collective)
    table[Kind.B] = table[Kind.I] + table[Kind.W] - to_picoseconds(times.overlap_collective)
    return tables
