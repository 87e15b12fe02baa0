"""What no order can beat: a lower bound on the cost of any order of F, I and W within a memory limit.

The cost of an order is the maximum over ranks of the end of its last op minus ``origin``: with the start of
the rank's first F as origin it is the span of the zero-bubble papers, with zeros it is the makespan.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]
Counts = NDArray[np.int64]
Memory = NDArray[np.float64]


class Line(NamedTuple):
    """P stages, one per rank, and M micro-batches; arrays have shape (P,), times are integer picoseconds.

    ``first`` is when F of micro-batch 0 starts. ``whole`` is held from F until I, ``part`` from I until W, in
    any unit; no rank may hold more than its ``capacity``.
    """

    forward: Times
    input_grad: Times
    weight_grad: Times
    hop: int
    first: Times
    whole: Memory
    part: Memory
    capacity: Memory
    microbatches: int

    @property
    def ranks(self) -> int:
        """Number of ranks P."""
        return len(self.forward)

    @property
    def work(self) -> Times:
        """Time that a rank computes in the whole step."""
        return self.microbatches * (self.forward + self.input_grad + self.weight_grad)

    @property
    def below(self) -> Times:
        """From the end of F to the earliest start of I of the same micro-batch: down the line and up again."""
        leg = self.forward + self.input_grad + 2 * self.hop
        return np.concatenate([np.cumsum(leg[:0:-1])[::-1], [0]])

    @property
    def most_forwards(self) -> Counts:
        """Forwards that can precede the first I: what fits in memory, here and on every rank before."""
        counts: Counts = np.minimum.accumulate(_how_many(self.capacity, self.whole, self.microbatches))
        return counts

    @property
    def initial_wait(self) -> Times:
        """Idle time that no rank can avoid before its first I: only forwards can run by then."""
        return np.maximum(0, self.forward + self.below - self.most_forwards * self.forward)


def lower_bound(line: Line, origin: Times) -> int:
    """A cost that no order can beat, by four arguments, each of which leaves out part of the problem.

    Exact integers; where it equals the cost of an order, that order is optimal.
    """
    bound = max(_rank_bound(line, origin), _drain_bound(line, origin), _cycle_bound(line, origin))
    return _rounded_bound(line, origin, bound)


def _how_many(capacity: Memory, each: Memory, most: int) -> Counts:
    """How many of ``each`` fit in ``capacity``, at most ``most``."""
    fit = np.full(len(each), float(most))
    np.divide(capacity, each, out=fit, where=each > 0)
    counts: Counts = np.minimum(np.floor(fit), most).astype(np.int64)
    return counts


def _rank_bound(line: Line, origin: Times) -> int:
    """A rank works, waits for its first I, and waits again between its last F and the I that belongs to it."""
    most, below = line.most_forwards, line.below
    final_wait = [_final_wait(line, r, int(most[r]), int(below[r])) for r in range(line.ranks)]
    return int((line.first - origin + line.work + line.initial_wait + final_wait).max())


def _final_wait(line: Line, r: int, most_forwards: int, below: int) -> int:
    """Idle time between the last F and its I that the work then left in memory cannot fill.

    Left over are micro-batches before I (worth I and W, holding ``whole``) and before W (holding ``part``).
    """
    m = line.microbatches
    if m <= most_forwards:
        return 0
    before_input = np.arange(most_forwards)
    room = line.capacity[r] - line.whole[r] * (before_input + 1)
    part = np.full(len(room), line.part[r])
    before_weight = np.minimum(_how_many(room, part, m), m - 1 - before_input)
    weight = line.weight_grad[r]
    filled = before_input * (line.input_grad[r] + weight) + before_weight * weight
    return max(0, below - int(filled.max()))


def _drain_bound(line: Line, origin: Times) -> int:
    """After a rank's last I, gradients still travel up to a rank before it, which then runs one W."""
    up = np.concatenate([[0], np.cumsum(line.input_grad[:-1] + line.hop)])
    last_input = line.first + line.initial_wait + line.work
    last_input -= _most_deferred(line) * line.weight_grad
    onward = np.maximum.accumulate(line.weight_grad - origin - up)
    return int((last_input + up + onward).max())


def _cycle_bound(line: Line, origin: Times) -> int:
    """A forward beyond what memory holds waits for the I of a micro-batch as many places before.

    Where no ``part`` fits beside them, it also waits for that micro-batch's W, or for one more I.
    """
    held = _how_many(line.capacity, line.whole, line.microbatches)
    no_room_for_part = line.capacity - held * line.whole < line.part
    extra = no_room_for_part * np.minimum(line.weight_grad, line.input_grad)
    latency = line.forward + line.below + line.input_grad
    cycles, rest = np.divmod(line.microbatches - 1, held)
    cost = cycles * (latency + extra) + rest * line.forward + latency + line.weight_grad
    return int((line.first - origin + cost).max())


def _most_deferred(line: Line) -> Counts:
    """W that can follow the last I: its own, and those whose activations fit beside the last F."""
    room = line.capacity - line.whole
    return 1 + _how_many(room, line.part, line.microbatches - 1)


def _rounded_bound(line: Line, origin: Times, bound: int) -> int:
    """The least cost from ``bound`` on at which head and tail can be filled with whole forwards and whole W."""
    low, high = bound, bound
    step = 1
    while not _can_fill(line, origin, high):
        low, high, step = high + 1, high + step, 2 * step
    while low < high:
        middle = (low + high) // 2
        if _can_fill(line, origin, middle):
            high = middle
        else:
            low = middle + 1
    return high


def _can_fill(line: Line, origin: Times, cost: int) -> bool:
    idle = cost + origin - line.first - line.work
    return _can_fill_head(line, idle) and _can_fill_tail(line, idle - line.initial_wait, origin)


def _can_fill_head(line: Line, idle: Times) -> bool:
    """Whether forwards alone keep every rank busy, but for ``idle``, until the first gradient reaches it."""
    return warmup_counts(line, idle)[1]


def warmup_counts(line: Line, idle: Times) -> tuple[Counts, bool]:
    """Forwards before the first I, as few as keep each rank from waiting longer than ``idle``, shape (P,).

    The flag tells whether memory allows them; where it does not, a rank has as many as fit.
    """
    counts = np.zeros(line.ranks, np.int64)
    forward, most = line.forward.tolist(), line.most_forwards.tolist()
    leg = (line.forward[:-1] + line.input_grad[1:] + 2 * line.hop).tolist()
    start, enough = 0, True
    for r in range(line.ranks - 1, -1, -1):
        arrival = start + leg[r] if r + 1 < line.ranks else forward[r]
        count = min(most[r], arrival // max(1, forward[r]))
        if arrival - count * forward[r] > idle[r]:
            enough = enough and count < most[r]
            count = min(most[r], count + 1)
        counts[r] = count
        start = max(arrival, count * forward[r])
    return counts, enough


def _can_fill_tail(line: Line, idle: Times, origin: Times) -> bool:
    """The same from the end: W alone keep every rank busy after its last I, while gradients travel up."""
    weight = line.weight_grad.tolist()
    most = _how_many(line.capacity, line.part, line.microbatches).tolist()
    leg = (np.diff(origin) + line.input_grad[:-1] + line.hop).tolist()
    left = 0
    for r in range(line.ranks):
        travel = weight[r] if r == 0 else max(weight[r], left + leg[r - 1])
        count = min(most[r], travel // max(1, weight[r]))
        if travel - count * weight[r] > idle[r]:
            count += 1
            if count > most[r]:
                return False
        left = max(travel, count * weight[r])
    return True
