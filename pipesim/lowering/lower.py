"""The lowering of one step: program in, op graph out, one pass after the other."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import Costs
from pipesim.ir.connect import connect
from pipesim.ir.graph import OpGraph
from pipesim.ir.offloading import Offloading
from pipesim.ir.op import Kind
from pipesim.ir.program import Program
from pipesim.ir.updates import WeightPolicy, stale_stages
from pipesim.lowering.blocking import insert_exchanges
from pipesim.lowering.data_parallel import DataParallel, add_barrier, add_data_parallel
from pipesim.lowering.insert import append_optimizer, insert_recompute, insert_reconstruct
from pipesim.lowering.offload import add_offload
from pipesim.lowering.updates import add_reductions, split_engines


@dataclass(frozen=True)
class Lowering:
    """What to add to a program.

    ``p2p``: transfers beside the compute stream, or holding it. ``zero``: ZeRO stage. ``synchronous``: all
    ranks wait for each other before the optimizer step. ``triggers`` and ``blocking_reductions``: as in
    `DataParallel`, with triggers numbered in the program as the schedule made it; None for "after the stage's
    last backward". ``data_overlap``: as in `DataParallel`. ``paired_exchanges``: blocking transfers come after a
    forward and a backward together. ``weights`` and ``second_engine`` concern programs with optimizer steps of their
    own: how backwards get at their forwards' weights, and whether W and OPT run beside the compute stream.
    ``offload``: activations that go to host memory and back.
    """

    p2p: Literal["overlapped", "blocking"] = "overlapped"
    zero: int = 0
    data_overlap: str = "gradients"
    synchronous: bool = True
    triggers: NDArray[np.int64] | None = None
    blocking_reductions: bool = False
    paired_exchanges: bool = False
    weights: WeightPolicy = WeightPolicy.STASH
    second_engine: bool = False
    offload: Offloading | None = None


def lower(program: Program, costs: Costs, options: Lowering | None = None) -> OpGraph:
    """The graph of a whole step, unbound: which ops exist depends on which costs are not zero."""
    options = options if options is not None else Lowering()
    if program.has_updates:
        return _lower_without_flush(program, costs, options)
    times = costs.times
    made = program
    if times.recompute.any():
        program = insert_recompute(program, times.recompute)
    if options.p2p == "blocking":
        program = insert_exchanges(program, options.paired_exchanges)
    reduces, gathers = bool(times.reduce_grad.any()), bool(times.unshard.any())
    steps = bool(times.optimizer.any()) or reduces
    if steps:
        program = append_optimizer(program)
    graph = connect(program)
    if reduces or gathers:
        triggers = options.triggers if options.triggers is not None else last_gradient_ops(made)
        spec = DataParallel(
            zero=options.zero,
            buckets=costs.buckets,
            triggers=_moved(triggers, made, program),
            overlap=options.data_overlap,
            blocking=options.blocking_reductions,
            reduce=reduces,
            gather=gathers,
        )
        graph = add_data_parallel(graph, spec)
    if steps and options.synchronous:
        graph = add_barrier(graph)
    return add_offload(graph, costs, options.offload) if options.offload is not None else graph


def _lower_without_flush(program: Program, costs: Costs, options: Lowering) -> OpGraph:
    """Optimizer steps are in the program already; each waits for the reduction of its gradient."""
    times = costs.times
    if options.weights == WeightPolicy.AVERAGE and times.reconstruct.any():
        program = insert_reconstruct(program, stale_stages(program) & (times.reconstruct > 0))
    if times.recompute.any():
        program = insert_recompute(program, times.recompute)
    if options.p2p == "blocking":
        program = insert_exchanges(program)
    graph = connect(program)
    if options.second_engine:
        graph = split_engines(graph)
    return add_reductions(graph, costs.buckets) if times.reduce_grad.any() else graph


def shape(costs: Costs) -> tuple[Hashable, ...]:
    """What `lower` reads from costs: two costs of equal shape lower a program to the same graph."""
    recompute, reconstruct, *collective, _ = shaping(costs)
    present = (np.count_nonzero(part) > 0 for part in collective)
    return (recompute > 0).tobytes(), (reconstruct > 0).tobytes(), *present, costs.buckets.tobytes()


def shaping(costs: Costs) -> tuple[Any, ...]:
    """The arrays that decide about the `shape`; costs that share all of them have the same."""
    times = costs.times
    return times.recompute, times.reconstruct, times.reduce_grad, times.unshard, times.optimizer, costs.gradient_buckets


def last_gradient_ops(program: Program) -> NDArray[np.int64]:
    """The last B or W of every stage on every rank that holds it, shape (P, S); -1 elsewhere."""
    table = np.full((program.ranks, program.placement.stages), -1, np.int64)
    nodes = np.flatnonzero(np.isin(program.kind, (Kind.B, Kind.W)))
    table[program.rank[nodes], program.stage[nodes]] = nodes
    return table


def _moved(nodes: NDArray[np.int64], before: Program, after: Program) -> NDArray[np.int64]:
    """Numbers of compute ops after other ops were inserted; -1 stays -1."""
    if len(before) == len(after):
        return nodes
    compute = np.flatnonzero(after.kind <= Kind.B)
    return np.where(nodes >= 0, compute[nodes], -1)
