"""Replay a program with plain integer costs, and read off what schedule papers report. Shared by tests."""

from __future__ import annotations

import numpy as np

from pipesim.costs.costs import Costs, Hops, StageSizes, StageTimes
from pipesim.engine import event
from pipesim.ir.connect import connect
from pipesim.ir.op import Kind
from pipesim.ir.program import Program
from pipesim.ir.timeline import Timeline
from pipesim.ir.verify import verify
from pipesim.lowering.bind import bind

UNIT = 1e-12
"""Costs are given in picoseconds, so that integers stay integers."""


def costs(program: Program, forward=1, input_grad=1, weight_grad=1, hop=0, pair_factor=1.0) -> Costs:
    """Costs in integer picoseconds, each a scalar or one per stage."""
    stages, ranks = program.placement.stages, program.ranks
    times = [np.broadcast_to(np.asarray(x, float) * UNIT, stages) for x in (forward, input_grad, weight_grad)]
    zero = np.zeros(stages)
    sizes = StageSizes(zero, zero, zero, zero, zero, np.ones(stages), np.ones(stages), zero, zero)
    hops = Hops.uniform(ranks, hop * UNIT)
    return Costs(StageTimes.simple(*times), sizes, hops, np.zeros(ranks), pair_factor=pair_factor)


def replay(program: Program, forward=1, input_grad=1, weight_grad=1, hop=0, pair_factor=1.0) -> Timeline:
    """Verify and run a program on the event engine; times of the timeline are the given integers."""
    verify(program)
    priced = costs(program, forward, input_grad, weight_grad, hop, pair_factor)
    return event.run(bind(connect(program), priced))


def idle(timeline: Timeline) -> list[int]:
    """Makespan minus busy time, per rank."""
    graph = timeline.graph
    busy = [int(graph.duration[a:b].sum()) for a, b in zip(graph.starts, graph.starts[1:], strict=False)]
    return [timeline.makespan - b for b in busy]


def spans(timeline: Timeline) -> list[int]:
    """Last end minus first start, per rank."""
    bounds = list(zip(timeline.graph.starts, timeline.graph.starts[1:], strict=False))
    return [int(timeline.end[b - 1] - timeline.start[a]) for a, b in bounds]


def peak_in_flight(program: Program) -> list[int]:
    """Largest number of (stage, micro-batch) activations held at once per rank: from F until W or B ends."""
    change = np.select([program.kind == Kind.F, np.isin(program.kind, (Kind.W, Kind.B))], [1, -1], 0)
    bounds = zip(program.starts, program.starts[1:], strict=False)
    return [int(np.cumsum(change[a:b]).max(initial=0)) for a, b in bounds]
