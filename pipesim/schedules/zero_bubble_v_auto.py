"""The automatic order of ZB-V: rounds of one backward and one forward per rank, weight gradients in the gaps.

Source: Qi, Wan, Huang, Lin, Zero Bubble Pipeline Parallelism, arXiv 2401.10241v1, section 6 and its automatic
scheduler of section 3.1, on a V placement as released (sail-sg/zero-bubble-pipeline-parallelism, scheduler/zbv.py).
Costs and sizes here are per stage; the release takes one cost and one size for all.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from pipesim.jit import jit
from pipesim.schedules.v_journey import F_DOWN, F_UP, I_DOWN, I_UP, LEGS, OPS

Ints = NDArray[np.int64]
_NEVER = -1
_ALWAYS = cast(bool, np.bool_(True))
"""Not a plain literal, for which numba would compile the function anew."""


class Problem(NamedTuple):
    """What is given: op times of shape (6, P) and the transfer time; memory that each op takes, and the limit."""

    microbatches: int
    duration: Ints
    hop: int
    memory: NDArray[np.float64]
    limit: NDArray[np.float64]


class _State(NamedTuple):
    """What grows: ops of shape (6, P) placed so far, the end of each, and per rank its clock, memory and bubble.

    ``order`` holds codes ``leg M + micro-batch``, shape (P, 6 M). ``pending`` are the legs (2 or 3) whose weight
    gradients wait, oldest first, from ``taken`` on. ``allowance`` is the bubble that a rank may have anyway.
    """

    done: Ints
    end: Ints
    clock: Ints
    bubble: Ints
    allowance: Ints
    memory: NDArray[np.float64]
    order: Ints
    pending: Ints
    taken: Ints


def automatic_order(problem: Problem) -> Ints | None:
    """Codes ``leg M + micro-batch`` of every rank in order, shape (P, 6 M), with the smallest bubble found.

    Tries both answers to two questions: whether a weight gradient may delay the far backward, and whether it may
    delay a forward, when the gap is smaller than it. None when the memory does not allow any.
    """
    best, least = None, -1
    for delay_backward in (True, False):
        for delay_forward in (True, False):
            order, bubble = _refine(problem, delay_backward, delay_forward)
            if order is not None and (best is None or bubble < least):
                best, least = order, bubble
    return best


def _refine(problem: Problem, delay_backward: bool, delay_forward: bool) -> tuple[Ints | None, int]:
    """Pass after pass, each allowing every rank the bubble of the pass before, as long as the largest shrinks."""
    ranks = problem.duration.shape[1]
    best, least = None, -1
    allowance = np.zeros(ranks, np.int64)
    while True:
        state = _start(problem, allowance)
        if not _run(problem, state, delay_backward, delay_forward):
            return best, least
        bubble = int(state.bubble.max())
        if best is not None and bubble >= least:
            return best, least
        best, least, allowance = state.order, bubble, state.bubble


def _start(problem: Problem, allowance: Ints) -> _State:
    ranks, count = problem.duration.shape[1], problem.microbatches
    return _State(
        done=np.zeros((OPS, ranks), np.int64),
        end=np.full((LEGS, ranks, count), _NEVER),
        clock=np.zeros(ranks, np.int64),
        bubble=np.zeros(ranks, np.int64),
        allowance=allowance,
        memory=np.zeros(ranks),
        order=np.zeros((ranks, OPS * count), np.int64),
        pending=np.zeros((ranks, 2 * count), np.int64),
        taken=np.zeros(ranks, np.int64),
    )


@jit
def _run(problem: Problem, state: _State, delay_backward: bool, delay_forward: bool) -> bool:
    """Place everything. False when memory or dependencies leave a rank without its next op."""
    ranks = len(state.clock)
    if not _warm_up(problem, state):
        return False
    for _ in range(2 * problem.microbatches):
        if not _backwards(problem, state, delay_backward) or not _forwards(problem, state, delay_forward):
            return False
    for rank in range(ranks):
        while _pending(state, rank):
            _put_weight(problem, state, rank)
    return True


@jit
def _warm_up(problem: Problem, state: _State) -> bool:
    """Forwards before the first backward: near ones while the far one is under way, then equal numbers on all ranks."""
    ranks, count = len(state.clock), problem.microbatches
    for rank in range(ranks):
        if not _put(problem, state, F_DOWN, rank):
            return False
    for rank in range(ranks - 1, -1, -1):
        while rank < ranks - 1 and _room_for_more(problem, state, rank):
            for upper in range(rank + 1):
                if not _put(problem, state, F_DOWN, upper):
                    return False
        if not _put(problem, state, F_UP, rank):
            return False
    leg = F_DOWN
    for rank in range(1, ranks):
        while _behind(state, rank, count):
            for lower in range(ranks - 1, rank - 1, -1):
                if state.done[leg, lower] < count and not _put(problem, state, leg, lower):
                    return False
            leg = F_UP - leg
    return True


@jit
def _room_for_more(problem: Problem, state: _State, rank: int) -> bool:
    """Whether one more near forward on ranks 0..rank fits before the first far one arrives, in time and memory."""
    if state.done[0, rank] >= problem.microbatches:
        return False
    later = (rank + 1) * (problem.memory[0, rank] + problem.memory[1, rank])
    arrival = state.end[1, rank + 1, 0] + problem.hop
    in_memory = state.memory[rank] + later <= problem.limit[rank]
    return bool(in_memory and state.clock[rank] + problem.duration[0, rank] <= arrival)


@jit
def _behind(state: _State, rank: int, count: int) -> bool:
    """Whether a rank has run fewer forwards than the rank before it, or no more far ones."""
    before = rank - 1
    if state.done[0, rank] + state.done[1, rank] < state.done[0, before] + state.done[1, before]:
        return True
    return bool(state.done[1, rank] <= state.done[1, before] < count)


@jit
def _backwards(problem: Problem, state: _State, delay: bool) -> bool:
    """One backward on every rank: near ones from the last rank up, then far ones from the first rank down."""
    ranks = len(state.clock)
    near = np.array([_near_backward_is_next(problem, state, rank) for rank in range(ranks)])
    for rank in range(ranks - 1, -1, -1):
        if near[rank]:
            _fill(problem, state, I_UP, rank, _ALWAYS)
            if not _put(problem, state, I_UP, rank):
                return False
    for rank in range(ranks):
        if not near[rank]:
            _fill(problem, state, I_DOWN, rank, delay)
            if not _put(problem, state, I_DOWN, rank):
                return False
    return True


@jit
def _near_backward_is_next(problem: Problem, state: _State, rank: int) -> bool:
    near, far = state.done[3, rank], state.done[2, rank]
    if near >= far:
        return False
    return rank == len(state.clock) - 1 or far >= problem.microbatches or state.end[3, rank + 1, near] != _NEVER


@jit
def _forwards(problem: Problem, state: _State, delay: bool) -> bool:
    """One forward on every rank that has one: the far one when its input exists, otherwise the near one."""
    for rank in range(len(state.clock)):
        leg = _next_forward(problem, state, rank)
        if leg < 0:
            continue
        while state.memory[rank] + problem.memory[leg, rank] > problem.limit[rank]:
            if not _pending(state, rank):
                return False
            _put_weight(problem, state, rank)
        _fill(problem, state, leg, rank, delay)
        if not _put(problem, state, leg, rank):
            return False
    return True


@jit
def _next_forward(problem: Problem, state: _State, rank: int) -> int:
    """0 for the near forward, 1 for the far one, -1 for none."""
    near, far = state.done[0, rank], state.done[1, rank]
    if far >= problem.microbatches:
        return -1
    if far >= near:
        return 0
    if rank == len(state.clock) - 1 or state.end[1, rank + 1, far] != _NEVER:
        return 1
    if near < problem.microbatches and (rank == 0 or state.end[0, rank - 1, near] != _NEVER):
        return 0
    return -1


@jit
def _fill(problem: Problem, state: _State, leg: int, rank: int, delay: bool) -> None:
    """Weight gradients before the leg: all that fit, and one more if the gap would make this rank the slowest."""
    arrival = _arrival(problem, state, leg, rank, state.done[leg, rank])
    while _pending(state, rank) and arrival >= state.clock[rank] + _weight_time(problem, state, rank):
        _put_weight(problem, state, rank)
    slowest = max(state.bubble.max(), state.allowance.max() - state.allowance[rank])
    if delay and _pending(state, rank) and arrival - state.clock[rank] > slowest - state.bubble[rank]:
        _put_weight(problem, state, rank)


@jit
def _pending(state: _State, rank: int) -> int:
    """Weight gradients that wait on a rank."""
    backwards = state.done[2, rank] + state.done[3, rank]
    return int(backwards - state.done[4, rank] - state.done[5, rank])


@jit
def _weight_time(problem: Problem, state: _State, rank: int) -> int:
    return int(problem.duration[state.pending[rank, state.taken[rank]] + 2, rank])


@jit
def _put_weight(problem: Problem, state: _State, rank: int) -> None:
    """Run the oldest weight gradient."""
    leg = state.pending[rank, state.taken[rank]] + 2
    state.taken[rank] += 1
    _record(problem, state, leg, rank, state.clock[rank])


@jit
def _put(problem: Problem, state: _State, leg: int, rank: int) -> bool:
    """Run the next op of a leg as soon as it can. False if its input does not exist or memory does not allow it."""
    number = state.done[leg, rank]
    if number >= problem.microbatches:
        return False
    if state.memory[rank] + problem.memory[leg, rank] > problem.limit[rank]:
        return False
    arrival = _arrival(problem, state, leg, rank, number)
    if arrival == _NEVER or (leg > 0 and state.end[leg - 1, rank, number] == _NEVER):
        return False
    start = max(arrival, state.clock[rank])
    if state.done[0, rank] > 0:
        state.bubble[rank] += start - state.clock[rank]
    if leg >= 2:
        state.pending[rank, state.done[2, rank] + state.done[3, rank]] = leg
    state.end[leg, rank, number] = start + problem.duration[leg, rank]
    _record(problem, state, leg, rank, start)
    return True


@jit
def _arrival(problem: Problem, state: _State, leg: int, rank: int, number: int) -> int:
    """When the op's input comes from the rank before it on its leg; 0 at a leg's first rank, `_NEVER` if unknown."""
    before = rank - 1 if leg % 2 == 0 else rank + 1
    if before < 0 or before >= len(state.clock):
        return 0
    end = state.end[leg, before, number]
    return end + problem.hop if end != _NEVER else _NEVER


@jit
def _record(problem: Problem, state: _State, leg: int, rank: int, start: int) -> None:
    placed = 0
    for op in range(OPS):
        placed += state.done[op, rank]
    state.order[rank, placed] = leg * problem.microbatches + state.done[leg, rank]
    state.done[leg, rank] += 1
    state.clock[rank] = start + problem.duration[leg, rank]
    state.memory[rank] += problem.memory[leg, rank]
