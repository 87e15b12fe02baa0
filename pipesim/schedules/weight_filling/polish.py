"""Local search on an order: move one op a few places on its rank, keep what does not make the order worse.

Threshold accepting (Dueck and Scheuer, J. Comput. Phys. 90, 1990): a move may also make it a little worse,
by a margin that shrinks to nothing. Integers and a fixed seed only, so that the result is reproducible.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.op import Kind
from pipesim.jit import jit

_F, _I = int(Kind.F), int(Kind.I)
_REACH = 5
_MAX_WEIGHT = 50
"""The worst rank counts this much more than the sum over ranks, which tells moves on a plateau apart."""


@jit
def polish(
    ranks: Any,
    kinds: NDArray[np.int8],
    goal: NDArray[np.int64],
    hop: int,
    margin: int,
    tries: int,
) -> NDArray[np.int8]:
    """The best order found from ``kinds``, shape (P, 3 M), by ``tries`` moves.

    ``ranks`` are `RANK` records; their clocks will be those of the result. ``goal[r]`` is when rank r had better
    end; ``margin`` is how much later the worst rank may get in the first move.
    """
    np.random.seed(0)
    current, best = kinds.copy(), kinds.copy()
    end = np.zeros((2, kinds.shape[0], kinds.shape[1] // 3), np.int64)
    cost = least = _cost(ranks, current, end, goal, hop)
    row = np.empty(kinds.shape[1], np.int8)
    for left in range(tries, 0, -1):
        if least == 0:
            break
        r = np.random.randint(kinds.shape[0])
        row[:] = current[r]
        if not _move(current[r]) or not _is_allowed(ranks[r], current[r]):
            current[r] = row
            continue
        changed = _cost(ranks, current, end, goal, hop)
        if changed < 0 or changed > cost + _MAX_WEIGHT * margin * left // tries:
            current[r] = row
            continue
        cost = changed
        if cost < least:
            least = cost
            best[:] = current
    _replay(ranks, best, end, hop)
    return best


@jit
def _move(row: NDArray[np.int8]) -> bool:
    """Move a random op by a few places; False if that changes nothing."""
    source = np.random.randint(len(row))
    target = source + np.random.randint(1, _REACH + 1) * (1 if np.random.randint(2) else -1)
    if target < 0 or target >= len(row):
        return False
    step = 1 if target > source else -1
    kind, same = row[source], True
    for i in range(source, target, step):
        same = same and row[i + step] == kind
        row[i] = row[i + step]
    row[target] = kind
    return not same


@jit
def _is_allowed(rank: Any, row: NDArray[np.int8]) -> bool:
    """Whether no I precedes its F, no W its I, and memory suffices."""
    forwards, inputs, weights = 0, 0, 0
    for kind in row:
        if kind == _F:
            forwards += 1
        elif kind == _I:
            inputs += 1
        else:
            weights += 1
        held = (forwards - inputs) * rank.whole + (inputs - weights) * rank.part
        if inputs > forwards or weights > inputs or held > rank.capacity:
            return False
    return True


@jit
def _cost(ranks: Any, kinds: NDArray[np.int8], end: NDArray[np.int64], goal: NDArray[np.int64], hop: int) -> int:
    """How late the ranks end, the worst one weighted most; -1 if they wait for each other forever."""
    if not _replay(ranks, kinds, end, hop):
        return -1
    worst, total = 0, 0
    for r in range(len(ranks)):
        late = max(0, ranks[r].clock - goal[r])
        worst = max(worst, late)
        total += late
    return _MAX_WEIGHT * worst + total


@jit
def _replay(ranks: Any, kinds: NDArray[np.int8], end: NDArray[np.int64], hop: int) -> bool:
    """Run every op as early as the order allows; False on a deadlock."""
    count, done = kinds.size, 0
    for r in range(len(ranks)):
        ranks[r].clock, ranks[r].cursor = 0, 0
        ranks[r].forwards, ranks[r].inputs = 0, 0
    while done < count:
        before = done
        for r in range(len(ranks)):
            done += _advance(ranks, r, kinds[r], end, hop)
        for r in range(len(ranks) - 2, -1, -1):
            done += _advance(ranks, r, kinds[r], end, hop)
        if done == before:
            return False
    return True


@jit
def _advance(ranks: Any, r: int, row: NDArray[np.int8], end: NDArray[np.int64], hop: int) -> int:
    """Run ops of rank r until one lacks its input; how many were run."""
    rank = ranks[r]
    first: int = rank.cursor
    while rank.cursor < len(row):
        kind = row[rank.cursor]
        if kind == _F:
            if r > 0 and ranks[r - 1].forwards == rank.forwards:
                break
            arrival = end[0, r - 1, rank.forwards] + hop if r > 0 else 0
            rank.clock = max(rank.clock, arrival) + rank.forward
            end[0, r, rank.forwards] = rank.clock
            rank.forwards += 1
        elif kind == _I:
            if r + 1 < len(ranks) and ranks[r + 1].inputs == rank.inputs:
                break
            arrival = end[1, r + 1, rank.inputs] + hop if r + 1 < len(ranks) else 0
            rank.clock = max(rank.clock, arrival) + rank.input_grad
            end[1, r, rank.inputs] = rank.clock
            rank.inputs += 1
        else:
            rank.clock += rank.weight_grad
        rank.cursor += 1
    last: int = rank.cursor
    return last - first
