"""Weights without a flush: how stale every gradient is, and how many versions of the weights exist at once.

Read off the timeline, not off what the schedule says: which optimizer steps had ended when a forward started, and
which one applied its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import Costs
from pipesim.ir.op import BACKWARD_KINDS, GRADIENT_KINDS, Kind
from pipesim.ir.timeline import Timeline
from pipesim.ir.updates import WeightPolicy, stages_on_ranks

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class StageVersions:
    """Weights of one stage on one rank.

    ``staleness`` (M,): updates between the weights that a micro-batch's forward and backward use and those to
    which its gradient is applied. ``versions``: different weights that are kept at once. ``copies``: buffers as
    large as the weights, these included.
    """

    rank: int
    stage: int
    staleness: Ints
    versions: int
    copies: int


def versions(timeline: Timeline, policy: WeightPolicy) -> list[StageVersions]:
    """Every stage on every rank that runs it, by rank and stage."""
    return [_stage(timeline, policy, *found) for found in stages_on_ranks(timeline.graph)]


def with_copies(costs: Costs, found: list[StageVersions]) -> Costs:
    """The costs with every stage's weights held as often as its copies say, from start to end.

    PipeDream allocates its queue of versions once, before training (msr-fiddle/pipedream:runtime/optimizer.py).
    """
    copies = np.ones(costs.stages)
    for one in found:
        copies[one.stage] = max(copies[one.stage], one.copies)
    return replace(costs, sizes=replace(costs.sizes, weights=costs.sizes.weights * copies))


def _stage(timeline: Timeline, policy: WeightPolicy, rank: int, stage: int, nodes: Ints) -> StageVersions:
    graph = timeline.graph
    kind = graph.kind[nodes]

    def by_microbatch(kinds: tuple[Kind, ...]) -> Ints:
        chosen = nodes[np.isin(kind, kinds)]
        return chosen[np.argsort(graph.microbatch[chosen], kind="stable")]

    forward, backward, gradient = (by_microbatch(kinds) for kinds in ((Kind.F,), BACKWARD_KINDS, GRADIENT_KINDS))
    updates = nodes[kind == Kind.OPT]
    order = _Order(timeline, forward, updates)
    newest = np.searchsorted(order.ends(updates), order.starts(forward), side="right")
    applied = np.searchsorted(updates, gradient)
    two = policy == WeightPolicy.TWO_BUFFERS
    used = np.minimum(newest, np.maximum(applied - 1, 0)) if two else newest
    staleness = applied - used
    alive = 1 if policy == WeightPolicy.AVERAGE else _most_alive(order, used, backward, updates)
    late = bool(staleness.any())
    copies = {WeightPolicy.STASH: alive, WeightPolicy.TWO_BUFFERS: 2, WeightPolicy.AVERAGE: 1 + late}[policy]
    return StageVersions(rank, stage, staleness.astype(np.int64), alive, copies)


class _Order:
    """When ops of a stage start and end relative to each other.

    Ops of one stream are ordered by their numbers, which is exact even where ops take no time; an engine of its
    own for optimizer steps leaves only the clock.
    """

    def __init__(self, timeline: Timeline, forward: Ints, updates: Ints) -> None:
        stream = timeline.graph.starts.searchsorted(np.concatenate([forward[:1], updates[:1]]), side="right")
        self._by_number = len(set(stream.tolist())) == 1
        self._timeline = timeline

    def starts(self, nodes: Ints) -> Ints:
        """Comparable starts."""
        return nodes if self._by_number else self._timeline.start[nodes]

    def ends(self, nodes: Ints) -> Ints:
        """Comparable ends."""
        return nodes if self._by_number else self._timeline.end[nodes]


def _most_alive(order: _Order, used: Ints, backward: Ints, updates: Ints) -> int:
    """Largest number of versions that exist at once.

    Version v + 1 is written as update v starts: over version v if no backward is left that needs it, else beside
    it until the last of these has ended.
    """
    written = order.starts(updates)
    retired = np.append(written, np.iinfo(np.int64).max)
    np.maximum.at(retired, used, order.ends(backward))
    gone = np.searchsorted(np.sort(retired), written, side="right")
    return int((np.arange(len(written)) + 2 - gone).max(initial=1))
