"""Schedules drawn on a grid of equal slots: every op has a slot, and a rank runs its ops in slot order.

Bidirectional and wave-like schedules are published as such grids. Because an op's slot is later than those
of the ops it depends on, the sorted order cannot deadlock, whatever the durations turn out to be.
Slots are counted in halves, so that an op can be put between two others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.op import Kind
from pipesim.ir.placement import Placement
from pipesim.ir.program import Program

Integers = NDArray[np.int64]
SlotRule = Callable[[Integers, Integers, Integers], Integers]
"""(kind, stage, micro-batch) of ops -> their slots, in half slots."""


class Dealt(NamedTuple):
    """For every micro-batch: which pipe it takes, its number in that pipe and unit, and its unit."""

    pipe: Integers
    local: Integers
    unit: Integers


def deal(microbatches: int, unit_size: int, pipes: int) -> Dealt:
    """Micro-batches in units; in each unit the first share goes to pipe 0, the next to pipe 1, and so on.

    A last unit that is not full is spread evenly, down pipes (the first half) and up pipes in turn.
    Example: 6 micro-batches in units of 4 over 2 pipes take pipes 0 0 1 1 0 1.
    """
    unit, within = np.divmod(np.arange(microbatches), unit_size)
    pipe, local = np.divmod(within, unit_size // pipes)
    rest = microbatches % unit_size
    if rest:
        share = np.full(pipes, rest // pipes)
        down_and_up_in_turn = np.arange(pipes).reshape(2, -1).T.ravel()
        share[down_and_up_in_turn[: rest % pipes]] += 1
        pipe[-rest:] = np.repeat(np.arange(pipes), share)
        local[-rest:] = np.concatenate([np.arange(count) for count in share])
    return Dealt(pipe, local, unit)


def there_and_back(stages: int, kind: Integers, stage: Integers, forward: Integers, backward: Integers) -> Integers:
    """The grid that Chimera, BitPipe and waves share: a stage per slot, an injection every second slot.

    The ``forward``-th injection of a pipe runs F of stage s in slot s + 2 forward; the ``backward``-th
    gradient runs B in slot 2 S - 1 - s + 2 backward. In half slots.
    """
    return 2 * np.where(kind == Kind.F, stage + 2 * forward, 2 * stages - 1 - stage + 2 * backward)


def by_slot(placement: Placement, route_of: NDArray[np.int32], slot: SlotRule) -> Program:
    """F and B of every stage and micro-batch, on each rank in the order of their slots."""
    shape = (2, placement.stages, len(route_of))
    backward, stage, microbatch = (index.ravel() for index in np.indices(shape))
    kind = np.where(backward, int(Kind.B), int(Kind.F))
    rank = placement.rank_of[route_of[microbatch], stage].astype(np.int64)
    when = slot(kind, stage, microbatch)
    order = np.argsort(rank * (int(when.max(initial=0)) + 1) + when, kind="stable")
    return Program(
        placement=placement,
        route_of=route_of,
        starts=np.concatenate([[0], np.cumsum(np.bincount(rank, minlength=placement.ranks))]).astype(np.int64),
        kind=kind[order].astype(np.int8),
        stage=stage[order].astype(np.int32),
        microbatch=microbatch[order].astype(np.int32),
        paired=np.zeros(len(order), bool),
    )


def multiples_near(found: int, step: int) -> str:
    """The multiples of ``step`` around ``found``, for messages: "4 or 8"; only the first when below it."""
    below = found - found % step
    return f"{below} or {below + step}" if below else f"{step}"
