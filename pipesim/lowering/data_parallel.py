"""Data-parallel traffic: gradient reductions, ZeRO's gathers, and the optimizer step that waits for them.

Sources: reference timings and placement rules as in arXiv 2211.05953 (a stage is gathered once per pass and
reduced as soon as its last micro-batch is done; one stage is prefetched, two stages' buffers exist) and in
ServiceNow/Fast-LLM:fast_llm/engine/schedule/runner.py; ZeRO stages as in arXiv 1910.02054.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import SLOTS
from pipesim.ir.graph import COLLECTIVE, SHARED, OpGraph
from pipesim.ir.op import BACKWARD_KINDS, Kind, is_any
from pipesim.ir.program import NO_STAGE
from pipesim.lowering.extend import Extension

Nodes = NDArray[np.int64]
NOWHERE = -1
_NOTHING = (np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True)
class DataParallel:
    """How gradients and weights move at the step's end and during it.

    ``zero``: ZeRO stage 0..3. ``buckets``: gradient buckets per stage, shape (S,); bucket i of n leaves when
    (i + 1) / n of the stage's last backward is done. ``triggers``: node after which a stage's reduction may
    start on a rank, shape (P, S), -1 where the rank does not hold it. ``overlap``: ``none`` reduces when the rank is
    done (from ZeRO-2 on, before it goes on), whatever the triggers; ``full`` gathers the weights that ZeRO 1 and 2
    updated at the beginning of the next step, of which a step is taken to be like any other. ``blocking``: the next
    compute op waits for the reduction. ``reduce`` and ``gather``: whether such traffic exists at all.
    """

    zero: int
    buckets: NDArray[np.int64]
    triggers: NDArray[np.int64]
    overlap: str = "gradients"
    blocking: bool = False
    reduce: bool = True
    gather: bool = True


class Events(NamedTuple):
    """Collectives to be queued on a rank, each after a node of its compute stream (or from the start, -1).

    ``needed_by``: the node that waits for a gather; -1 for a reduction.
    """

    position: Nodes
    kind: Nodes
    stage: Nodes
    needed_by: Nodes

    @classmethod
    def reductions(cls, position: Nodes, stage: Nodes) -> Events:
        """Gradients of stages, complete at some nodes."""
        return cls(position, np.full_like(stage, Kind.REDUCE_GRAD), stage, np.full_like(stage, NOWHERE))

    @classmethod
    def gathers(cls, position: Nodes, stage: Nodes, needed_by: Nodes) -> Events:
        """Weights of stages, from when their buffers are free."""
        return cls(position, np.full_like(stage, Kind.UNSHARD), stage, needed_by)

    def sorted_by(self, *keys: Nodes) -> Events:
        """The same in another order: by the first key, then by the next."""
        order = np.lexsort(keys[::-1])
        return Events(*(column[order] for column in self))

    def also(self, other: Events) -> Events:
        """These and others."""
        return Events(*(np.concatenate(columns) for columns in zip(self, other, strict=True)))


def add_data_parallel(graph: OpGraph, spec: DataParallel) -> OpGraph:
    """The graph with a collective stream per rank; an OPT that is already there waits for its reductions."""
    extension = Extension(graph)
    reductions: dict[int, list[int]] = {s: [] for s in range(graph.placement.stages)}
    shared = _shared_positions(graph, spec)
    for rank in range(graph.ranks):
        extension.stream(rank, COLLECTIVE)
        _queue_rank(extension, spec, rank, shared, reductions)
    _meet_replicas(extension, spec, reductions)
    return extension.build()


def add_barrier(graph: OpGraph) -> OpGraph:
    """All optimizer steps wait until every rank has finished its ops and reductions."""
    extension = Extension(graph)
    extension.stream(-1, SHARED)
    barrier = extension.node(Kind.BARRIER)
    for node in np.flatnonzero(graph.kind == Kind.OPT).tolist():
        before = np.append(node - 1, graph.dependencies(node))
        extension.add_waits(np.full(len(before), barrier), before)
        extension.wait(node, barrier)
    return extension.build()


def _queue_rank(
    extension: Extension, spec: DataParallel, rank: int, shared: dict[int, int], reductions: dict[int, list[int]]
) -> None:
    graph = extension.graph
    first, last = int(graph.starts[rank]), int(graph.starts[rank + 1])
    optimizer = last - 1 if graph.kind[last - 1] == Kind.OPT else None
    events = _reductions(graph, spec, rank, first, last) if spec.reduce else Events.reductions(*_NOTHING)
    if spec.zero == 3 and spec.gather:
        events = events.also(_gathers(graph, first, last))
    updated = spec.zero in (1, 2) and spec.gather
    if updated and spec.overlap == "full":
        _gather_ahead(extension, spec, first, last)
    queued = _queue(extension, spec, _in_launch_order(events, first, shared), last)
    stages = [extension.nodes.stage[node - len(graph)] for node in queued]
    for node, stage in zip(queued, stages, strict=True):
        reductions[stage].append(node)
    if optimizer is not None:
        extension.add_waits(np.full(len(queued), optimizer), np.array(queued, np.int64))
        if updated and spec.overlap != "full":
            for held in np.flatnonzero(graph.placement.holds[rank]).tolist():
                extension.wait(extension.node(Kind.UNSHARD, held), optimizer)


def _gather_ahead(extension: Extension, spec: DataParallel, first: int, last: int) -> None:
    """Gather the weights of a rank's stages in the order in which it needs them.

    A forward may begin when the first of its layers is there (one bucket of several), and what follows it when all are.
    """
    graph = extension.graph
    forwards = first + np.flatnonzero(graph.kind[first:last] == Kind.F)
    stages, uses = np.unique(graph.stage[forwards], return_index=True)
    for stage, use in sorted(zip(stages.tolist(), forwards[uses].tolist(), strict=True), key=lambda pair: pair[1]):
        gathered = extension.node(Kind.UNSHARD, stage)
        alone = bool(graph.paired[use] or graph.paired[use - 1]) or use + 1 >= last
        extension.wait(use, gathered, 1.0 if alone else 1.0 / int(spec.buckets[stage]))
        if not alone:
            extension.wait(use + 1, gathered)


def _in_launch_order(events: Events, first: int, shared: dict[int, int]) -> Events:
    """First come, first served; of what comes together, gathers first by need, then reductions, last stage first.

    Reductions that meet those of other ranks are taken in one order everywhere: by the later partner.
    """
    reduces = events.kind == Kind.REDUCE_GRAD
    position = events.position - first
    for stage, meeting in shared.items():
        position = np.where(reduces & (events.stage == stage), meeting, position)
    return events.sorted_by(position, reduces, events.needed_by, -events.stage)


def _queue(extension: Extension, spec: DataParallel, events: Events, last: int) -> list[int]:
    """Queue collectives, reductions bucket by bucket; the numbers of the reductions."""
    reduces = events.kind == Kind.REDUCE_GRAD
    count = np.where(reduces, spec.buckets[events.stage], 1)
    each = np.repeat(np.arange(len(count)), count)
    bucket = np.arange(len(each)) - np.repeat(np.cumsum(count) - count, count)
    reduced = reduces[each]
    nodes = extension.add_nodes(events.kind[each], events.stage[each], np.where(reduced, bucket, NO_STAGE))
    position = events.position[each]
    own = (extension.graph.stage[position] == events.stage[each]) & (spec.overlap != "none")
    fraction = np.where(reduced & own, (bucket + 1) / count[each], 1.0)
    some = position >= 0
    extension.add_waits(nodes[some], position[some], fraction[some])
    _await_gathers(extension, spec, events.needed_by[each][~reduced], nodes[~reduced], last)
    if spec.blocking or spec.overlap == "none":
        followed = reduced & (bucket == count[each] - 1) & (position + 1 < last)
        extension.add_waits(position[followed] + 1, nodes[followed])
    return [int(node) for node in nodes[reduced]]


def _await_gathers(extension: Extension, spec: DataParallel, users: Nodes, gathers: Nodes, last: int) -> None:
    """Let ops wait for the weights of their stage. A rank's only stage is worked through layer by layer: an op may
    begin with the first layer's weights (one bucket of several), and what follows it with all of them.
    """
    stages = extension.graph.stage[users]
    layers = spec.buckets[stages] if len(np.unique(stages)) == 1 else np.ones(len(users), np.int64)
    several = (layers > 1) & (users + 1 < last)
    extension.add_waits(users, gathers, np.where(several, 1.0 / layers, 1.0))
    extension.add_waits(users[several] + 1, gathers[several])


def _shared_positions(graph: OpGraph, spec: DataParallel) -> dict[int, int]:
    """For stages with replicas, where the last of their holders reaches its trigger, counted in ops."""
    relative = np.where(spec.triggers >= 0, spec.triggers - graph.starts[: graph.ranks, None], -1)
    latest = relative.max(axis=0)
    return {s: int(latest[s]) for s in np.flatnonzero(graph.placement.replicas > 1).tolist()}


def _reductions(graph: OpGraph, spec: DataParallel, rank: int, first: int, last: int) -> Events:
    """Once per stage; from ZeRO-2 on, each time a stage leaves its gradient buffer.

    Stages with replicas on other ranks are reduced once whatever the ZeRO stage: their partners run them at
    other times and can only meet at the end.
    """
    held, alone = spec.triggers[rank] >= 0, graph.placement.replicas == 1
    stage = np.flatnonzero(held & ~alone if spec.zero >= 2 else held)
    compute = last - 1 - int(graph.kind[last - 1] == Kind.OPT)
    trigger = np.full(len(stage), compute) if spec.overlap == "none" else spec.triggers[rank, stage]
    events = Events.reductions(trigger, stage)
    if spec.zero < 2:
        return events
    stays = residencies(graph, first, last, (Kind.B, Kind.W))
    mine = alone[stays.stage]
    return events.also(Events.reductions(stays.last[mine], stays.stage[mine]))


def _gathers(graph: OpGraph, first: int, last: int) -> Events:
    """A stage's weights are gathered as soon as the stage before it in the same buffer is done with it."""
    stays = residencies(graph, first, last, (Kind.F, Kind.RECOMPUTE, *BACKWARD_KINDS))
    return Events.gathers(stays.released, stays.stage, stays.first)


class Residencies(NamedTuple):
    """Stays of stages in buffers: first and last op that use them, the stage, the op that freed the buffer (or -1)."""

    first: Nodes
    last: Nodes
    stage: Nodes
    released: Nodes


def residencies(graph: OpGraph, first: int, last: int, kinds: tuple[Kind, ...]) -> Residencies:
    """Which stages pass through a rank's buffers as its ops ``first..last-1`` of the given kinds run.

    Stages take the buffers in turn (local stage number mod 2). A rank with a single stage works through its
    layers anew for every micro-batch, so there each op is a stay of its own: that is what makes fully sharded
    weights expensive without looping.
    """
    nodes = first + np.flatnonzero(is_any(graph.kind[first:last], kinds))
    stage = graph.stage[nodes].astype(np.int64)
    content = np.unique(stage, return_inverse=True)[1]
    if len(nodes) and content.max() == 0:
        content = _turns(graph, nodes)
    stays = []
    for slot in range(SLOTS):
        mine = nodes[content % SLOTS == slot]
        cuts = np.flatnonzero(np.diff(content[content % SLOTS == slot], prepend=-1))
        ends = np.append(cuts[1:], len(mine))[: len(cuts)] - 1
        released = np.where(cuts > 0, mine[cuts - 1], NOWHERE) if len(mine) else cuts
        stays.append((mine[cuts], mine[ends], graph.stage[mine[cuts]].astype(np.int64), released))
    return Residencies(*(np.concatenate(columns) for columns in zip(*stays, strict=True)))


def _turns(graph: OpGraph, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the ops of a rank's only stage; a recomputation counts with the backward that follows it."""
    follows = np.zeros(len(nodes), np.int64)
    follows[1:] = graph.kind[nodes[:-1]] == Kind.RECOMPUTE
    return np.arange(len(nodes)) - np.cumsum(follows)


def _meet_replicas(extension: Extension, spec: DataParallel, reductions: dict[int, list[int]]) -> None:
    """A reduction over ranks that hold the same stage starts on all of them together."""
    replicas = extension.graph.placement.replicas
    if (replicas <= 1).all():
        return
    offset = len(extension.graph)
    owner = np.repeat([s.rank for s in extension.streams], extension.sizes)
    own_waits: dict[int, list[tuple[int, float]]] = {}
    deps = extension.deps
    for node, producer, fraction in zip(deps.node, deps.producer, deps.fraction, strict=True):
        own_waits.setdefault(node, []).append((producer, fraction))
    for stage, nodes in reductions.items():
        if replicas[stage] <= 1:
            continue
        for bucket in range(int(spec.buckets[stage])):
            members = [n for n in nodes if extension.nodes.microbatch[n - offset] == bucket]
            for node in members:
                for other in members:
                    if other == node:
                        continue
                    for producer, fraction in own_waits[other]:
                        extension.wait(node, producer, fraction)
                    if other > offset and owner[other - 1 - offset] == owner[other - offset]:
                        extension.wait(node, other - 1)
