"""Activations leave for host memory after their forward and come back before their backward.

Each rank has a stream of copies (OFFLOAD and RELOAD) in a fixed order. Where the copies go is planned on the earliest
times of the step without them (`pipesim.lowering.offload_plan`), and then said in dependencies alone:

- an OFFLOAD waits for its forward, a backward (or its RECOMPUTE) for its RELOAD;
- whatever takes memory waits for what is to give memory back before: a RELOAD for the op on the compute stream that
  ends before it in the plan, a forward for the OFFLOAD that does;
- copies of one direction on one PCIe switch take turns in the planned order.

So no op starts later than without copies, as long as everything takes as long as planned; and whatever happens to
times, a rank never holds more activations than planned. Copies that take longer than computing are refused, or planned
as if they kept up, so that the step then waits for them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import Costs
from pipesim.ir.graph import HOST, OpGraph
from pipesim.ir.offloading import Offloading
from pipesim.ir.op import Kind
from pipesim.lowering.extend import Extension
from pipesim.lowering.memory import MemoryEffects
from pipesim.lowering.offload_plan import Held, OffloadPlan, Part, Planned, plan_offload

Nodes = NDArray[np.int64]


def add_offload(graph: OpGraph, costs: Costs, offloading: Offloading) -> OpGraph:
    """The graph with a stream of host copies per rank, for the share of its activations that live longest.

    Stages that live longest come first; of the last one that counts, micro-batches are taken evenly. Of these,
    activations stay where copying them would be of no use or would delay the step.

    Raises:
        ScheduleError: copying takes longer than computing, so that it cannot keep up.
    """
    plan = plan_offload(graph, costs, offloading)
    return graph if plan is None else _extended(plan)


def _extended(plan: OffloadPlan) -> OpGraph:
    """The graph with the planned copies on host streams."""
    extension = Extension(plan.planned.graph)
    for part in plan.parts:
        nodes = _add_streams(extension, plan.planned, part, plan.effects, plan.host.alone)
        for direction, slots in zip(nodes, (part.copies.out_slot, part.copies.back_slot), strict=True):
            order = np.argsort(slots, kind="stable")
            rank = part.held.rank[order]
            for i in (np.flatnonzero(rank[1:] != rank[:-1]) + 1).tolist():
                extension.wait(int(direction[order[i]]), int(direction[order[i - 1]]))
    return extension.build()


def _add_streams(
    extension: Extension, planned: Planned, part: Part, effects: MemoryEffects, alone: float
) -> tuple[Nodes, Nodes]:
    """A host stream per rank; the nodes of the copies out and back, each (K,)."""
    out, back = np.empty(len(part.held.rank), np.int64), np.empty(len(part.held.rank), np.int64)
    for rank in np.unique(part.held.rank).tolist():
        extension.stream(rank, HOST)
        mine = np.flatnonzero(part.held.rank == rank)
        moment = np.concatenate([part.copies.out_start[mine], part.copies.back_start[mine]])
        for place in np.argsort(moment, kind="stable").tolist():
            index, leaving = int(mine[place % len(mine)]), place < len(mine)
            kind, nodes = (Kind.OFFLOAD, out) if leaving else (Kind.RELOAD, back)
            lone = part.copies.out_alone[index] if leaving else part.copies.back_alone[index]
            nodes[index] = _add_copy(extension, planned.graph, part.held, index, kind, alone if lone else 1.0)
        _order_by_memory(extension, planned, part, rank, mine, out, back, effects)
    return out, back


def _add_copy(extension: Extension, graph: OpGraph, held: Held, index: int, kind: Kind, factor: float) -> int:
    forward = int(held.forward[index])
    node = extension.node(kind, int(held.stage[index]), int(graph.microbatch[forward]), factor)
    if kind == Kind.OFFLOAD:
        extension.wait(node, forward)
    else:
        extension.wait(int(held.needed_by[index]), node)
    return node


def _order_by_memory(
    extension: Extension,
    planned: Planned,
    part: Part,
    rank: int,
    mine: Nodes,
    out: Nodes,
    back: Nodes,
    effects: MemoryEffects,
) -> None:
    """Let what takes memory wait for what gives some back before it in the plan."""
    first, last = int(planned.graph.starts[rank]), int(planned.graph.starts[rank + 1])
    ended = np.searchsorted(planned.end[first:last], part.copies.back_start[mine], side="right")
    for node, count in zip(back[mine].tolist(), ended.tolist(), strict=True):
        if count:
            extension.wait(node, first + count - 1)
    order = mine[np.argsort(part.copies.out_end[mine], kind="stable")]
    takers = first + np.flatnonzero(effects.takes[first:last] > 0)
    gone = np.searchsorted(part.copies.out_end[order], planned.start[takers], side="right")
    for i in np.flatnonzero(np.diff(gone, prepend=0)).tolist():
        extension.wait(int(takers[i]), int(out[order[gone[i] - 1]]))
