"""The journey of a micro-batch over a V placement, shared by all schedules on that placement.

With stages r (near) and 2P-1-r (far) on rank r, a micro-batch passes every rank four times, on four legs:

    leg 0  forward, down    ranks 0 .. P-1   near stage
    leg 1  forward, up      ranks P-1 .. 0   far stage
    leg 2  backward, down   ranks 0 .. P-1   far stage     (the loss is on rank 0)
    leg 3  backward, up     ranks P-1 .. 0   near stage

Legs 4 and 5 stand for the weight gradients that legs 2 and 3 leave behind. The turns at both ends stay on one
rank and need no transfer. Orders are written as codes ``leg M + micro-batch``.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.op import Kind
from pipesim.ir.placement import vee
from pipesim.ir.program import Program
from pipesim.schedules.base import Setting, StepCosts

Ints = NDArray[np.int64]

LEGS = 4
OPS = 6
"""Legs and weight gradients: ops per rank and micro-batch."""

F_DOWN, F_UP, I_DOWN, I_UP = cast("list[int]", list(np.arange(4)))
"""The legs by name; as numpy integers, because numba compiles a function anew for every plain literal."""

KIND = np.array([Kind.F, Kind.F, Kind.I, Kind.I, Kind.W, Kind.W])
FAR = np.array([False, True, True, False, True, False])


def stages(ranks: int) -> Ints:
    """Stage of every leg and weight gradient on every rank, shape (6, P)."""
    near = np.arange(ranks)
    return np.where(FAR[:, None], 2 * ranks - 1 - near, near)


def durations(costs: StepCosts, ranks: int) -> Ints:
    """Picoseconds of every leg and weight gradient on every rank, shape (6, P)."""
    table = np.stack([costs.forward] * 2 + [costs.input_grad] * 2 + [costs.weight_grad] * 2)
    return np.take_along_axis(table, stages(ranks), axis=1).astype(np.int64)


def program(codes: Ints, microbatches: int) -> Program:
    """A program from the ops of each rank in order, as codes ``leg M + micro-batch`` of shape (P, 6 M)."""
    ranks = len(codes)
    legs, number = np.divmod(codes, microbatches)
    stage = stages(ranks)[legs, np.arange(ranks)[:, None]]
    columns = list(zip(KIND[legs], stage, number, strict=True))
    return Program.from_arrays(vee(ranks), columns, microbatches)


def numbers(legs: Ints) -> Ints:
    """Micro-batches of a rank's legs in order, when each leg takes them in order."""
    found = np.empty_like(legs)
    for leg in range(OPS):
        mine = legs == leg
        found[mine] = np.arange(mine.sum())
    return found


def memory(costs: StepCosts, ranks: int) -> NDArray[np.float64]:
    """What every leg and weight gradient adds to a rank's activations (any unit), shape (6, P).

    What W needs beyond what F left behind (recomputed activations) is not counted.
    """
    held = costs.activations
    kept = np.minimum(costs.weight_grad_activations, held)
    table = np.stack([held] * 2 + [kept - held] * 2 + [-kept] * 2)
    return np.take_along_axis(table, stages(ranks), axis=1)


def all_equal(setting: Setting) -> bool:
    """Whether F, I and W take the same time on all stages and transfers none."""
    if setting.costs is None:
        return True
    costs = setting.costs
    times = np.concatenate([costs.forward, costs.input_grad, costs.weight_grad])
    return costs.hop == 0 and bool((times == times[0]).all())
