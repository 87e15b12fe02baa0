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

from pipesim.ir.graph import COLLECTIVE, SHARED, OpGraph
from pipesim.ir.op import BACKWARD_KINDS, Kind
from pipesim.lowering.extend import Extension

SLOTS = 2
"""Buffers of a rank for gathered weights (and for whole gradients): one in use, one prefetched (or draining)."""


@dataclass(frozen=True)
class DataParallel:
    """How gradients and weights move at the step's end and during it.

    ``zero``: ZeRO stage 0..3. ``buckets``: gradient buckets per stage, shape (S,); bucket i of n leaves when
    (i + 1) / n of the stage's last backward is done. ``triggers``: node after which a stage's reduction may
    start on a rank, shape (P, S), -1 where the rank does not hold it. ``blocking``: the next compute op waits
    for the reduction. ``reduce`` and ``gather``: whether such traffic exists at all.
    """

    zero: int
    buckets: NDArray[np.int64]
    triggers: NDArray[np.int64]
    blocking: bool = False
    reduce: bool = True
    gather: bool = True


@dataclass(frozen=True)
class Event:
    """A collective to be queued on a rank: after ``position`` on its compute stream."""

    position: int
    kind: Kind
    stage: int
    needed_by: int = -1


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
        for producer in [node - 1, *graph.dependencies(node).tolist()]:
            extension.wait(barrier, producer)
        extension.wait(node, barrier)
    return extension.build()


def _queue_rank(
    extension: Extension, spec: DataParallel, rank: int, shared: dict[int, int], reductions: dict[int, list[int]]
) -> None:
    graph = extension.graph
    first, last = int(graph.starts[rank]), int(graph.starts[rank + 1])
    optimizer = last - 1 if graph.kind[last - 1] == Kind.OPT else None
    events = _reductions(graph, spec, rank, first, last) if spec.reduce else []
    if spec.zero == 3 and spec.gather:
        events += _gathers(graph, first, last)
    queued: list[int] = []
    for event in sorted(events, key=lambda e: _launch_order(e, first, shared)):
        if event.kind == Kind.UNSHARD:
            _queue_gather(extension, event)
            continue
        nodes = _queue_reduction(extension, spec, event, last)
        queued += nodes
        reductions[event.stage] += nodes
    if optimizer is not None:
        for node in queued:
            extension.wait(optimizer, node)
        if spec.zero in (1, 2) and spec.gather:
            for stage in np.flatnonzero(graph.placement.holds[rank]).tolist():
                extension.wait(extension.node(Kind.UNSHARD, stage), optimizer)


def _launch_order(event: Event, first: int, shared: dict[int, int]) -> tuple[int, bool, int, int]:
    """First come, first served; of what comes together, gathers first by need, then reductions, last stage first.

    Reductions that meet those of other ranks are taken in one order everywhere: by the later partner.
    """
    position = event.position - first
    if event.kind == Kind.REDUCE_GRAD:
        position = shared.get(event.stage, position)
    return position, event.kind != Kind.UNSHARD, event.needed_by, -event.stage


def _shared_positions(graph: OpGraph, spec: DataParallel) -> dict[int, int]:
    """For stages with replicas, where the last of their holders reaches its trigger, counted in ops."""
    relative = np.where(spec.triggers >= 0, spec.triggers - graph.starts[: graph.ranks, None], -1)
    latest = relative.max(axis=0)
    return {s: int(latest[s]) for s in np.flatnonzero(graph.placement.replicas > 1).tolist()}


def _reductions(graph: OpGraph, spec: DataParallel, rank: int, first: int, last: int) -> list[Event]:
    """Once per stage; from ZeRO-2 on, each time a stage leaves its gradient buffer.

    Stages with replicas on other ranks are reduced once whatever the ZeRO stage: their partners run them at
    other times and can only meet at the end.
    """
    held = set(np.flatnonzero(spec.triggers[rank] >= 0).tolist())
    events = []
    if spec.zero >= 2:
        stays = residencies(graph, first, last, (Kind.B, Kind.W))
        alone = graph.placement.replicas == 1
        events = [Event(r.last, Kind.REDUCE_GRAD, r.stage) for r in stays if alone[r.stage]]
        held -= set(np.flatnonzero(alone).tolist())
    return events + [Event(int(spec.triggers[rank, s]), Kind.REDUCE_GRAD, s) for s in sorted(held)]


def _gathers(graph: OpGraph, first: int, last: int) -> list[Event]:
    """A stage's weights are gathered as soon as the stage before it in the same buffer is done with it."""
    kinds = (Kind.F, Kind.RECOMPUTE, *BACKWARD_KINDS)
    stays = residencies(graph, first, last, kinds)
    return [Event(r.released, Kind.UNSHARD, r.stage, needed_by=r.first) for r in stays]


class Residency(NamedTuple):
    """A stage's stay in a buffer: first and last op that use it, and the op that freed the buffer (or -1)."""

    first: int
    last: int
    stage: int
    released: int


def residencies(graph: OpGraph, first: int, last: int, kinds: tuple[Kind, ...]) -> list[Residency]:
    """Which stages pass through a rank's buffers as its ops ``first..last-1`` of the given kinds run.

    Stages take the buffers in turn (local stage number mod 2). A rank with a single stage works through its
    layers anew for every micro-batch, so there each op is a stay of its own: that is what makes fully sharded
    weights expensive without looping.
    """
    nodes = first + np.flatnonzero(np.isin(graph.kind[first:last], kinds))
    stage = graph.stage[nodes]
    local = np.unique(stage, return_inverse=True)[1]
    content = local
    if len(nodes) and local.max() == 0:
        content = _turns(graph, nodes)
        local = content
    stays: list[Residency] = []
    for slot in range(SLOTS):
        mine = np.flatnonzero(local % SLOTS == slot)
        if len(mine) == 0:
            continue
        cuts = np.flatnonzero(np.diff(content[mine], prepend=-1))
        ends = np.append(cuts[1:], len(mine)) - 1
        for a, b in zip(mine[cuts].tolist(), mine[ends].tolist(), strict=True):
            before = mine[mine < a]
            released = int(nodes[before[-1]]) if len(before) else -1
            stays.append(Residency(int(nodes[a]), int(nodes[b]), int(stage[a]), released))
    return stays


def _turns(graph: OpGraph, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the ops of a rank's only stage; a recomputation counts with the backward that follows it."""
    follows = np.zeros(len(nodes), np.int64)
    follows[1:] = graph.kind[nodes[:-1]] == Kind.RECOMPUTE
    return np.arange(len(nodes)) - np.cumsum(follows)


def _queue_gather(extension: Extension, event: Event) -> None:
    node = extension.node(Kind.UNSHARD, event.stage)
    if event.position >= 0:
        extension.wait(node, event.position)
    extension.wait(event.needed_by, node)


def _queue_reduction(extension: Extension, spec: DataParallel, event: Event, last: int) -> list[int]:
    graph, count = extension.graph, int(spec.buckets[event.stage])
    own = int(graph.stage[event.position]) == event.stage
    nodes = []
    for bucket in range(count):
        node = extension.node(Kind.REDUCE_GRAD, event.stage, bucket)
        extension.wait(node, event.position, (bucket + 1) / count if own else 1.0)
        nodes.append(node)
    follower = event.position + 1
    if spec.blocking and follower < last:
        extension.wait(follower, nodes[-1])
    return nodes


def _meet_replicas(extension: Extension, spec: DataParallel, reductions: dict[int, list[int]]) -> None:
    """A reduction over ranks that hold the same stage starts on all of them together."""
    replicas = extension.graph.placement.replicas
    offset = len(extension.graph)
    owner = np.repeat([s.rank for s in extension.streams], extension.sizes)
    own_waits: dict[int, list[tuple[int, float]]] = {}
    for node, producer, fraction in extension.deps:
        own_waits.setdefault(node, []).append((producer, fraction))
    for stage, nodes in reductions.items():
        if replicas[stage] <= 1:
            continue
        for bucket in range(int(spec.buckets[stage])):
            members = [n for n in nodes if extension.nodes[n - offset][2] == bucket]
            for node in members:
                for other in members:
                    if other == node:
                        continue
                    for producer, fraction in own_waits[other]:
                        extension.wait(node, producer, fraction)
                    if other > offset and owner[other - 1 - offset] == owner[other - offset]:
                        extension.wait(node, other - 1)
