"""Schedules from a building block: repeat it, advance its ops into the gaps, squeeze it.

A block says in which time slot each rank runs each of the passes of micro-batch 0; micro-batch j follows j periods
later. A grid holds what becomes of it: row = rank, column = unit time slot, cell = code of an op or -1. The code
of op x of micro-batch j is x M + j, with x in the order in which a micro-batch meets its ops on a rank, weight
gradients last.

Source: Qi, Wan, Amar, Lin, Pipeline Parallelism with Controllable Memory, arXiv 2405.15362: building blocks, repeat,
squeeze and reorder are its terms. How ops are advanced follows the schedules that the authors release
(sail-sg/zero-bubble-pipeline-parallelism, scheduler/zbv_greedy.py), so that the orders are theirs.
"""

from __future__ import annotations

import numpy as np

from pipesim.jit import jit
from pipesim.schedules.v_journey import LEGS, Ints

Grid = Ints
Row = Ints

EMPTY = -1
_WEIGHT = LEGS
"""Code of any weight gradient while it does not matter whose it is."""


def unroll(block: Ints, microbatches: int, period: int, limit: int = 0) -> Ints | None:
    """Codes of every rank in order, shape (P, 6 M), for a block of four legs, shape (4, P), on a V placement.

    Repeats the block, puts weight gradients into its gaps, and squeezes and advances its ends at one slot per op.
    ``limit`` is the number of activations that a rank may hold; by default what the repeated block holds. None if
    the repeated block holds more.
    """
    grid = repeat(block, microbatches, period)
    fill_weights(grid, microbatches)
    held = peak(grid, microbatches, True)
    if held > (limit or held):
        return None
    advance(grid, microbatches, True, limit or held)
    grid = squeeze(grid, microbatches)
    clear_weights(grid, microbatches)
    advance(grid, microbatches, False, limit or peak(grid, microbatches, False))
    fill_own_weights(grid, microbatches)
    return grid[grid >= 0].reshape(len(grid), -1)


def repeat(block: Ints, microbatches: int, period: int) -> Grid:
    """The grid of a block of shape (ops, P), repeated for every micro-batch.

    The grid has room at its end for the weight gradients that the block may leave out.
    """
    ops, ranks = block.shape
    width = int(block.max()) + period * (microbatches - 1) + 1 + 2 * microbatches
    grid = np.full((ranks, width), EMPTY)
    number = np.arange(microbatches)
    for op in range(ops):
        slots = block[op][:, None] + period * number
        grid[np.arange(ranks)[:, None], slots] = op * microbatches + number
    return grid


@jit
def fill_weights(grid: Grid, microbatches: int) -> None:
    """Put the rank's weight gradients into free slots, first come first served, whosever they are. In place."""
    for rank in range(grid.shape[0]):
        waiting = placed = 0
        for slot in range(grid.shape[1]):
            code = grid[rank, slot]
            if code >= 0:
                waiting += code >= 2 * microbatches
            elif waiting > 0:
                grid[rank, slot] = _WEIGHT * microbatches + placed
                placed += 1
                waiting -= 1


@jit
def fill_own_weights(grid: Grid, microbatches: int) -> None:
    """Put each stage's weight gradients into free slots, those of leg 2 before those of leg 3. In place."""
    for rank in range(grid.shape[0]):
        waiting = [0, 0]
        placed = [0, 0]
        for slot in range(grid.shape[1]):
            code = grid[rank, slot]
            leg = code // microbatches - 2 if code >= 0 else 0 if waiting[0] else 1
            if code >= 0:
                if leg >= 0:
                    waiting[leg] += 1
            elif waiting[leg]:
                grid[rank, slot] = (_WEIGHT + leg) * microbatches + placed[leg]
                placed[leg] += 1
                waiting[leg] -= 1


@jit
def clear_weights(grid: Grid, microbatches: int) -> None:
    """Take the weight gradients out again. In place."""
    for rank in range(grid.shape[0]):
        for slot in range(grid.shape[1]):
            if grid[rank, slot] >= _WEIGHT * microbatches:
                grid[rank, slot] = EMPTY


@jit
def row_peak(row: Row, microbatches: int, explicit: bool) -> int:
    """Most activations in flight on a rank; weight gradients take the free slots unless they are ``explicit``."""
    held = peak = waiting = 0
    for code in row:
        if code >= _WEIGHT * microbatches:
            held -= 1
        elif code >= 2 * microbatches:
            waiting += 1
        elif code >= 0:
            held += 1
            peak = max(peak, held)
        elif waiting > 0 and not explicit:
            held -= 1
            waiting -= 1
    return peak


@jit
def peak(grid: Grid, microbatches: int, explicit: bool) -> int:
    """Largest `row_peak` of any rank."""
    most = 0
    for rank in range(grid.shape[0]):
        most = max(most, row_peak(grid[rank], microbatches, explicit))
    return most


@jit
def squeeze(grid: Grid, microbatches: int) -> Grid:
    """Every op as early as its order and its micro-batch's journey allow, at one slot per op. A new grid."""
    ranks, width = grid.shape
    squeezed = np.full_like(grid, EMPTY)
    slot_of = np.zeros((LEGS, ranks, microbatches), np.int64)
    free = np.zeros(ranks, np.int64)
    for slot in range(width):
        for rank in range(ranks):
            code = grid[rank, slot]
            if code < 0:
                continue
            leg = min(code // microbatches, _WEIGHT)
            number = code - leg * microbatches
            start = free[rank]
            if leg < LEGS:
                start = max(start, _arrival(slot_of, leg, rank, number))
                slot_of[leg, rank, number] = start
            squeezed[rank, start] = code
            free[rank] = start + 1
    return squeezed


@jit
def _arrival(slot_of: Ints, leg: int, rank: int, number: int) -> int:
    """First slot in which the leg can run on this rank, going by the leg before and the rank before."""
    start = slot_of[leg - 1, rank, number] + 1 if leg > 0 else 0
    before = rank - 1 if leg % 2 == 0 else rank + 1
    if 0 <= before < slot_of.shape[1]:
        start = max(start, slot_of[leg, before, number] + 1)
    return start


@jit
def advance(grid: Grid, microbatches: int, explicit: bool, limit: int) -> None:
    """Move ops of warm-up and cool-down into earlier free slots, as far as no rank's peak exceeds the limit.

    The repeated middle (from the first last backward on rank 0 to its last forward) stays as it is, and the
    warm-up too unless weight gradients are ``explicit``. In place.
    """
    ranks, width = grid.shape
    slot_of = _slots(grid, microbatches)
    warming, steady = True, False
    for slot in range(width):
        for rank in range(ranks):
            code = grid[rank, slot]
            if code < 0:
                continue
            leg = min(code // microbatches, _WEIGHT)
            number = code - leg * microbatches
            if warming and leg == 3 and rank == 0:
                warming, steady = False, True
            if steady:
                steady = not (leg == 0 and number == microbatches - 1)
            elif explicit or not warming:
                first = _earliest(grid[rank], slot_of, leg, rank, number)
                slot_of[leg, rank, number] = _move(grid[rank], microbatches, first, slot, limit, explicit)


@jit
def _slots(grid: Grid, microbatches: int) -> Ints:
    """Slot of every op, shape (legs and all weight gradients, P, 2 M)."""
    slot_of = np.zeros((LEGS + 1, grid.shape[0], 2 * microbatches), np.int64)
    for rank in range(grid.shape[0]):
        for slot in range(grid.shape[1]):
            code = grid[rank, slot]
            if code >= _WEIGHT * microbatches:
                slot_of[_WEIGHT, rank, code - _WEIGHT * microbatches] = slot
            elif code >= 0:
                slot_of[code // microbatches, rank, code % microbatches] = slot
    return slot_of


@jit
def _earliest(row: Row, slot_of: Ints, leg: int, rank: int, number: int) -> int:
    """First slot that the op's order among its like and its micro-batch's journey allow."""
    first = slot_of[leg, rank, number - 1] + 1 if number > 0 else 0
    if leg < LEGS:
        return max(first, _arrival(slot_of, leg, rank, number))
    microbatches = slot_of.shape[2] // 2
    seen = -1
    for slot in range(len(row)):
        seen += 2 * microbatches <= row[slot] < _WEIGHT * microbatches
        if seen == number:
            return max(first, slot + 1)
    return first


@jit
def _move(row: Row, microbatches: int, first: int, slot: int, limit: int, explicit: bool) -> int:
    """Move the op at ``slot`` to the first free slot from ``first`` on that keeps the peak; the slot it ends in."""
    code = row[slot]
    row[slot] = EMPTY
    for target in range(first, slot):
        if row[target] == EMPTY:
            row[target] = code
            if (explicit and code >= 2 * microbatches) or row_peak(row, microbatches, explicit) <= limit:
                return target
            row[target] = EMPTY
    row[slot] = code
    return slot
