"""List scheduling on a V placement: ranks take ready ops by priority, within a limit on activations in flight.

Repeating a building block, squeezing it and reordering its ends (arXiv 2405.15362) happen here in one go, with the
real costs: the block only says which op is more urgent. Times are picoseconds; an order is an array of codes
``leg M + micro-batch`` of shape (P, 6 M).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipesim.jit import inlined, jit
from pipesim.schedules.v_journey import LEGS, OPS, Ints

_UNKNOWN = 1 << 62


class Costs(NamedTuple):
    """Durations of legs and weight gradients, shape (6, P), and of one transfer."""

    duration: Ints
    hop: int


class Policy(NamedTuple):
    """How ranks choose. Smaller priority goes first.

    ``priority`` of every leg, rank and micro-batch, shape (4, P, M). A weight gradient has the priority of its
    backward plus ``weight_lag``, and otherwise fills gaps that it fits into. A rank waits up to ``patience`` for a
    more urgent op whose input is under way. Before its first backward a rank holds at most ``warm`` near
    activations, shape (P,).
    """

    priority: NDArray[np.float64]
    weight_lag: float
    patience: int
    warm: Ints


class _State(NamedTuple):
    """``arrival`` of every leg's input, shape (4, P, M); per rank: ops of each kind done (6, P), clock, near
    activations held, weight gradients waiting as codes of their backwards, and whether nothing is known to come.
    """

    arrival: Ints
    done: Ints
    clock: Ints
    waiting: Ints
    stuck: NDArray[np.bool_]
    order: Ints


def list_schedule(costs: Costs, microbatches: int, limit: int, policy: Policy) -> Ints:
    """An order with at most ``limit`` >= 2 chunk activations on any rank.

    No rank can lock up: near forwards leave one place free for a far one, and micro-batches keep their order, so
    the oldest unfinished micro-batch can always go on.
    """
    ranks = costs.duration.shape[1]
    state = _State(
        arrival=np.full((LEGS, ranks, microbatches), _UNKNOWN),
        done=np.zeros((OPS, ranks), np.int64),
        clock=np.zeros(ranks, np.int64),
        waiting=np.zeros((ranks, 2 * microbatches), np.int64),
        stuck=np.zeros(ranks, np.bool_),
        order=np.zeros((ranks, OPS * microbatches), np.int64),
    )
    _run(costs, microbatches, limit, policy, state)
    return state.order


@jit
def _run(costs: Costs, microbatches: int, limit: int, policy: Policy, state: _State) -> None:
    ranks = costs.duration.shape[1]
    cursor = np.zeros(ranks, np.int64)
    state.arrival[0, 0] = 0
    left = state.order.size
    while left > 0:
        rank = _next_rank(state, cursor, OPS * microbatches)
        op, start = _choose(costs, microbatches, limit, policy, state, rank)
        if op < 0:
            state.stuck[rank] = start == _UNKNOWN
            state.clock[rank] = start if start < _UNKNOWN else state.clock[rank]
            continue
        number = state.done[op, rank]
        state.order[rank, cursor[rank]] = op * microbatches + number
        cursor[rank] += 1
        left -= 1
        _finish(costs, state, op, rank, number, start, microbatches)


@inlined
def _next_rank(state: _State, cursor: Ints, total: int) -> int:
    """The rank that decides next: the earliest clock among those that are not finished and not stuck."""
    best, clock = -1, _UNKNOWN
    for rank in range(len(cursor)):
        if cursor[rank] < total and not state.stuck[rank] and state.clock[rank] < clock:
            best, clock = rank, state.clock[rank]
    return best


@inlined
def _choose(costs: Costs, microbatches: int, limit: int, policy: Policy, state: _State, rank: int) -> tuple[int, int]:
    """The op to run and its start; or -1 and the time at which to look again, `_UNKNOWN` when nothing is to come."""
    now = int(state.clock[rank])
    horizon = now + policy.patience
    best, urgency, start, later = -1, np.inf, now, _UNKNOWN
    for leg in range(LEGS):
        number = state.done[leg, rank]
        if number >= microbatches or not _fits(state, policy, leg, rank, limit):
            continue
        arrival = int(state.arrival[leg, rank, number])
        if arrival > horizon:
            later = min(later, arrival)
        elif policy.priority[leg, rank, number] < urgency:
            best, urgency, start = leg, policy.priority[leg, rank, number], max(now, arrival)
    again = later if later == _UNKNOWN else later - policy.patience
    weight, weight_urgency = _weight(microbatches, policy, state, rank)
    if weight >= 0:
        before_next = now + costs.duration[weight, rank] <= (start if best >= 0 else later)
        if before_next or (best >= 0 and weight_urgency < urgency):
            return weight, now
    return (best, start) if best >= 0 else (-1, again)


@inlined
def _fits(state: _State, policy: Policy, leg: int, rank: int, limit: int) -> bool:
    """Whether a forward finds a place; backwards always do."""
    if leg > 1:
        return True
    near = state.done[0, rank] - state.done[5, rank]
    far = state.done[1, rank] - state.done[4, rank]
    room = limit - 1 if state.done[2, rank] > 0 else min(limit - 1, policy.warm[rank])
    return near + far < limit and (leg == 1 or near < room)


@inlined
def _weight(microbatches: int, policy: Policy, state: _State, rank: int) -> tuple[int, float]:
    """The oldest weight gradient that waits, as leg 4 or 5, and its urgency; -1 if none."""
    taken = state.done[4, rank] + state.done[5, rank]
    if taken == state.done[2, rank] + state.done[3, rank]:
        return -1, np.inf
    code = state.waiting[rank, taken]
    leg = code // microbatches
    return leg + 2, policy.priority[leg, rank, code - leg * microbatches] + policy.weight_lag


@inlined
def _finish(costs: Costs, state: _State, op: int, rank: int, number: int, start: int, microbatches: int) -> None:
    """Count the op, and let the rank that comes next on its journey know."""
    if op >= 2 and op < LEGS:
        state.waiting[rank, state.done[2, rank] + state.done[3, rank]] = op * microbatches + number
    state.done[op, rank] += 1
    end = start + costs.duration[op, rank]
    state.clock[rank] = end
    if op >= LEGS:
        return
    after = rank + 1 if op % 2 == 0 else rank - 1
    if 0 <= after < len(state.clock):
        state.arrival[op, after, number] = end + costs.hop
        if state.stuck[after]:
            state.stuck[after] = False
            state.clock[after] = max(state.clock[after], start)
    elif op + 1 < LEGS:
        state.arrival[op + 1, rank, number] = end


@jit
def measure(costs: Costs, microbatches: int, order: Ints) -> tuple[int, int]:
    """Makespan and longest span of an order when every op starts as early as it can.

    The order must not deadlock.
    """
    ranks = order.shape[0]
    end = np.full((OPS, ranks, microbatches), np.int64(-1))
    position, clock = np.zeros(ranks, np.int64), np.zeros(ranks, np.int64)
    first = np.zeros(ranks, np.int64)
    while position.sum() < order.size:
        for rank in range(ranks):
            while position[rank] < order.shape[1]:
                op, number = divmod(order[rank, position[rank]], microbatches)
                ready = _ready(costs, end, op, rank, number)
                if ready < 0:
                    break
                start = max(ready, clock[rank])
                if position[rank] == 0:
                    first[rank] = start
                clock[rank] = start + costs.duration[op, rank]
                end[op, rank, number] = clock[rank]
                position[rank] += 1
    return int(clock.max()), int((clock - first).max())


@jit
def _ready(costs: Costs, end: Ints, op: int, rank: int, number: int) -> int:
    """When the op's input is there; -1 if that is not known yet."""
    if op >= LEGS:
        return int(end[op - 2, rank, number])
    before = rank - 1 if op % 2 == 0 else rank + 1
    if 0 <= before < end.shape[1]:
        sent = int(end[op, before, number])
        return sent + costs.hop if sent >= 0 else sent
    return int(end[op - 1, rank, number]) if op > 0 else 0
