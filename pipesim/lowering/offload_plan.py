"""Which activations go to the host and when, planned on the times of a step without copies.

Those that live longest are looked at first; copies are placed by `pipesim.lowering.copies`, switch by switch, under
several rules, and the plan that leaves the fullest rank the most room is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import Costs, HostCopies
from pipesim.errors import ScheduleError
from pipesim.ir.graph import OpGraph
from pipesim.ir.offloading import Offloading
from pipesim.ir.op import BACKWARD_KINDS, Kind, is_any
from pipesim.ir.replay import NEVER, earliest_ends
from pipesim.ir.timeline import to_picoseconds
from pipesim.lowering.bind import bind
from pipesim.lowering.copies import Copies, Rule, Stays, plan_copies
from pipesim.lowering.memory import MemoryEffects, activation_effects
from pipesim.lowering.postpone import latest_starts

Nodes = NDArray[np.int64]
Picoseconds = NDArray[np.int64]

PATIENCE = (1.0, 3.0, 2.0)
"""Stays of up to so many round trips are not copied; the best one is taken."""

RELEASED_PATIENCE = 3.0
"""The same in PipeOffload's released scheduler, which also has activations back one backward early."""

SHIFTS = (0.0, 0.25, 0.5, 0.75)
"""Where the slots of the copies may start; the best one is taken."""

BUDGET = 6000
"""So many activations are placed for one switch, over all plans that are tried; at least one plan is made."""


@dataclass(frozen=True, eq=False)
class Held:
    """Activations that may be offloaded, arrays (A,): node that makes and node that needs each, rank and stage."""

    forward: Nodes
    needed_by: Nodes
    rank: Nodes
    stage: Nodes

    def select(self, chosen: Nodes) -> Held:
        """Some of them."""
        return Held(*(getattr(self, name)[chosen] for name in ("forward", "needed_by", "rank", "stage")))


class Copied(NamedTuple):
    """What copying activations takes, arrays (A,): picoseconds to the host and back, and bytes."""

    out: Picoseconds
    back: Picoseconds
    size: NDArray[np.float64]

    @classmethod
    def of(cls, planned: Planned, held: Held, costs: Costs) -> Copied:
        """That of some activations; nothing where copies are free."""
        which = held.stage, planned.graph.microbatch[held.forward]
        size = costs.at(lambda each: each.sizes.activations, *which)
        if costs.host is None:
            nothing = np.zeros(len(size), np.int64)
            return cls(nothing, nothing, size)
        out = costs.at(lambda each: _copy_times(each, "offload_s"), *which)
        back = costs.at(lambda each: _copy_times(each, "reload_s"), *which)
        return cls(out, back, size)

    def select(self, chosen: Nodes) -> Copied:
        """Some of them."""
        return Copied(self.out[chosen], self.back[chosen], self.size[chosen])

    def hurried(self, factor: float) -> Copied:
        """Copies that are so many times as fast."""
        out, back = (np.rint(each / factor).astype(np.int64) for each in (self.out, self.back))
        return Copied(out, back, self.size)


@dataclass(frozen=True, eq=False)
class Planned:
    """The bound graph without copies, and start and end of its nodes, warm-up forwards as late as possible."""

    graph: OpGraph
    start: Picoseconds
    end: Picoseconds


def plan_offload(graph: OpGraph, costs: Costs, offloading: Offloading) -> OffloadPlan | None:
    """Where the copies go; None for a graph that deadlocks, which is the engine's to report.

    Raises:
        ScheduleError: copying takes longer than computing, so that it cannot keep up.
    """
    bound = bind(graph, costs)
    end = earliest_ends(bound, bound.duration, bound.dep_lag)
    if (end == NEVER).any():
        return None
    start = latest_starts(bound, end - bound.duration)
    planned = Planned(bound, start, start + bound.duration)
    host = costs.host if costs.host is not None else free_copies(costs, graph.ranks)
    held = _longest_held(planned, held_activations(graph), offloading.share)
    copied = Copied.of(planned, held, costs)
    worth = _long_enough(planned, held, copied)
    held, copied = held.select(worth), copied.select(worth)
    load = _load(planned, held, copied, host)
    if load > 1 and not offloading.may_wait:
        raise _overload(load, offloading.share)
    copied = copied.hurried(load)
    effects = activation_effects(graph, costs.sizes, costs.variants)
    parts = [
        _plan_switch(planned, held.select(members), copied.select(members), host.alone, effects, offloading)
        for members in (np.flatnonzero(host.switch[held.rank] == one) for one in np.unique(host.switch))
        if len(members)
    ]
    return OffloadPlan(planned, parts, effects, host)


def free_copies(costs: Costs, ranks: int) -> HostCopies:
    """Copies that take no time."""
    return HostCopies.unshared(np.zeros(costs.stages), ranks)


def held_activations(graph: OpGraph) -> Held:
    """Every (stage, micro-batch) with the nodes between which its activations are held."""
    shape = (graph.placement.stages, graph.microbatches)
    forward, needed = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
    for table, kinds in ((forward, (Kind.F,)), (needed, BACKWARD_KINDS), (needed, (Kind.RECOMPUTE,))):
        nodes = np.flatnonzero(is_any(graph.kind, kinds))
        table[graph.stage[nodes], graph.microbatch[nodes]] = nodes
    stage, microbatch = np.nonzero((forward >= 0) & (needed >= 0))
    made, needed_by = forward[stage, microbatch], needed[stage, microbatch]
    second = np.concatenate([[False], graph.paired[:-1]])
    return Held(made, needed_by - second[needed_by], graph.rank[made].astype(np.int64), stage)


def _longest_held(planned: Planned, held: Held, share: float) -> Held:
    """The given share of each rank's activations: whole stages by the mean length of stay, then part of the next."""
    stay = planned.start[held.needed_by] - planned.end[held.forward]
    chosen: list[int] = []
    for rank in range(planned.graph.ranks):
        mine = np.flatnonzero(held.rank == rank)
        stages = np.unique(held.stage[mine])
        mean = np.array([stay[mine][held.stage[mine] == stage].mean() for stage in stages])
        wanted = round(share * len(mine), 6)
        for stage in stages[np.lexsort((stages, -mean))].tolist():
            own = mine[held.stage[mine] == stage]
            own = own[np.argsort(held.forward[own])]
            part = min(1.0, max(0.0, wanted / len(own)))
            count = np.floor(np.arange(len(own) + 1) * part + 1e-9)
            chosen += own[np.diff(count) > 0].tolist()
            wanted -= len(own)
    return held.select(np.array(chosen, np.int64))


def _long_enough(planned: Planned, held: Held, copied: Copied) -> Nodes:
    """Those held longer than going to the host and back takes."""
    stay = planned.start[held.needed_by] - planned.end[held.forward]
    return np.flatnonzero(stay > copied.out + copied.back)


def _load(planned: Planned, held: Held, copied: Copied, host: HostCopies) -> float:
    """How long copies take, over what the slowest rank computes; at least 1, which is as much as they may take."""
    graph = planned.graph
    busy = int(graph.per_rank(graph.duration[: graph.compute_nodes]).max(initial=0))
    out, back = (np.bincount(held.rank, each, graph.ranks) for each in (copied.out, copied.back))
    by_switch = [np.bincount(host.switch, each) for each in (out, back)]
    copying = max(float((out + back).max(initial=0)), *(float(each.max(initial=0)) for each in by_switch))
    return copying / busy if copying > busy * (1 + 1e-6) else 1.0


def _overload(load: float, share: float) -> ScheduleError:
    most = np.floor(100 * share / load) / 100
    return ScheduleError(
        f"copying a share of {share:.3g} of the activations to the host and back takes {load:.3g} times as long as "
        f"computing, so that it cannot be hidden; a share of {most:.2f} can, or links to the host that are {load:.3g} "
        f"times as fast; with overload: wait, the step waits for the copies"
    )


class Part(NamedTuple):
    """The copies of the ranks of one switch: those of ``held`` that `Copies` lists."""

    held: Held
    copies: Copies


def _plan_switch(
    planned: Planned,
    held: Held,
    copied: Copied,
    alone: float,
    effects: MemoryEffects,
    offloading: Offloading,
) -> Part:
    """The plan that leaves the fullest rank the most room; of equal ones that with the fewest copies."""
    ranks, lane = np.unique(held.rank, return_inverse=True)
    stays = Stays(
        lane=lane,
        made=planned.end[held.forward],
        due=planned.start[held.needed_by] - (_backward(planned, held) if offloading.alternating else 0),
        out=copied.out,
        back=copied.back,
    )
    plans = [plan_copies(stays, rule) for rule in _rules(stays, alone, offloading.alternating)]
    ledgers = [Ledger(planned, effects, int(rank)) for rank in ranks]
    best = min(plans, key=lambda each: _fullness(ledgers, lane, copied.size, each))
    return Part(held.select(best.which), best)


def _rules(stays: Stays, alone: float, alternating: bool) -> list[Rule]:
    """Rules to try, the released scheduler's alone if it is asked for."""
    if alternating:
        return [Rule(alone, RELEASED_PATIENCE, 0.0, True)]
    rules = [Rule(alone, patience, shift) for shift in SHIFTS for patience in PATIENCE]
    return rules[: max(1, BUDGET // len(stays))]


def _backward(planned: Planned, held: Held) -> Picoseconds:
    """How long the backwards take that need some activations, not counting recomputation."""
    again = planned.graph.kind[held.needed_by] == Kind.RECOMPUTE
    length: Picoseconds = planned.graph.duration[held.needed_by + again]
    return length


def _copy_times(costs: Costs, name: str) -> Picoseconds:
    """Picoseconds of one direction by stage, shape (S,)."""
    return to_picoseconds(getattr(costs.host, name))


def _fullness(ledgers: list[Ledger], lane: Nodes, size: NDArray[np.float64], copies: Copies) -> tuple[float, ...]:
    """Peak of the fullest rank, then their sum, then what is copied."""
    peaks = []
    for index, ledger in enumerate(ledgers):
        mine = lane[copies.which] == index
        peaks.append(ledger.peak(copies.out_end[mine], copies.back_start[mine], size[copies.which[mine]]))
    return max(peaks), sum(peaks), float(len(copies.which))


class Ledger:
    """What a rank's compute stream takes and gives back, in order of time."""

    def __init__(self, planned: Planned, effects: MemoryEffects, rank: int) -> None:
        nodes = slice(int(planned.graph.starts[rank]), int(planned.graph.starts[rank + 1]))
        self.moment = np.concatenate([planned.start[nodes], planned.end[nodes]])
        self.change = np.concatenate([effects.takes[nodes], -effects.gives[nodes]])
        self.taking = np.repeat([True, False], len(self.moment) // 2)

    def peak(self, gone: Picoseconds, again: Picoseconds, size: NDArray[np.float64]) -> float:
        """Largest level when activations of the given sizes are away from ``gone`` until ``again``."""
        moment = np.concatenate([self.moment, gone, again])
        change = np.concatenate([self.change, -size, size])
        taking = np.concatenate([self.taking, np.zeros(len(gone), bool), np.ones(len(again), bool)])
        return float(np.cumsum(change[np.lexsort((taking, moment))]).max(initial=0.0))


@dataclass(frozen=True, eq=False)
class OffloadPlan:
    """The step with its copies, part by part (one per switch), and what its ops do to memory."""

    planned: Planned
    parts: list[Part]
    effects: MemoryEffects
    host: HostCopies

    def peaks(self, kept: NDArray[np.float64]) -> NDArray[np.float64]:
        """Most bytes of activations that each rank may hold, shape (P,), for bytes per stage ``kept`` (S,)."""
        peaks = np.array(
            [Ledger(self.planned, self.effects, r).peak(*_NOTHING) for r in range(self.planned.graph.ranks)]
        )
        for held, copies in self.parts:
            for rank in np.unique(held.rank).tolist():
                mine = held.rank == rank
                away = copies.out_end[mine], copies.back_start[mine], kept[held.stage[mine]]
                peaks[rank] = Ledger(self.planned, self.effects, rank).peak(*away)
        return peaks


_NOTHING = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
