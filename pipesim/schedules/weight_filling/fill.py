"""Greedy construction of a zero-bubble order: F and I in rounds, W wherever a rank would wait.

In round i every rank, from the last to the first, runs whatever it may before I of micro-batch i, and then
that I. The rank below has decided by then when the gradient leaves it, so the gap to be filled is known
exactly, and so are all times: what comes out is an order together with its replay.

Compiled, because every decision depends on the one before. Times are integer picoseconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.op import Kind
from pipesim.jit import jit

RANK = np.dtype(
    [
        # what is given: times, when the first F starts, and memory held from F to I, from I to W, at most
        *((name, np.int64) for name in ("forward", "input_grad", "weight_grad", "first")),
        *((name, np.float64) for name in ("whole", "part", "capacity")),
        # what the plan says: forwards before the first I; forwards ahead of I that the ranks below rely on;
        # how long the rank may wait in all before it prefers to be late; how long before the plan has failed
        *((name, np.int64) for name in ("warmup", "promised", "idle", "most_idle")),
        # where the rank stands: time, time waited, ops run by kind, and where its next op is written
        *((name, np.int64) for name in ("clock", "waited", "forwards", "inputs", "weights", "cursor")),
    ]
)
"""One record per rank."""

_F, _I, _W = int(Kind.F), int(Kind.I), int(Kind.W)
_NEVER = np.iinfo(np.int64).max // 4


@jit
def build(
    ranks: Any,
    kinds: NDArray[np.int8],
    end: NDArray[np.int64],
    latest: NDArray[np.int64],
    hop: int,
    patience: float,
    yielding: bool,
) -> bool:
    """Write an order into ``kinds`` and its replay into ``ranks`` and ``end``; False if it waits too long.

    ``ranks`` are `RANK` records, shape (P,), with enough memory for one micro-batch each. ``kinds`` has room
    for the ops of rank after rank, shape (3 P M,). ``end[0]`` and ``end[1]`` receive the ends of F and I, each
    (P, M). ``latest`` says when each I should start at the latest, (P, M). A W that does not fit into a gap is
    started anyway when the gap is at least ``patience`` of it. With ``yielding``, a forward that would make I
    late is left for the next round.
    """
    count = latest.shape[1]
    _reset(ranks, count)
    for r in range(len(ranks)):
        _warm_up(ranks, r, kinds, end, hop, patience)
    for i in range(count):
        for r in range(len(ranks)):
            _keep_promise(ranks, r, i, kinds, end, hop, patience)
        for r in range(len(ranks) - 1, -1, -1):
            arrival = end[1, r + 1, i] + hop if r + 1 < len(ranks) else 0
            _run_ahead(ranks, r, i, kinds, end, hop, patience, yielding, arrival, latest[r, i])
            _fill(ranks[r], kinds, arrival, latest[r, i], patience)
            _input_grad(ranks, r, kinds, end)
            if ranks[r].waited > ranks[r].most_idle:
                return False
    for r in range(len(ranks)):
        while ranks[r].weights < count:
            _weight_grad(ranks[r], kinds)
    return True


@jit
def _reset(ranks: Any, count: int) -> None:
    for r in range(len(ranks)):
        rank = ranks[r]
        rank.clock, rank.waited, rank.cursor = rank.first, 0, 3 * count * r
        rank.forwards, rank.inputs, rank.weights = 0, 0, 0


@jit
def _warm_up(ranks: Any, r: int, kinds: NDArray[np.int8], end: NDArray[np.int64], hop: int, patience: float) -> None:
    while ranks[r].forwards < ranks[r].warmup and _has_input(ranks, r):
        _forward(ranks, r, kinds, end, hop, patience)


@jit
def _keep_promise(
    ranks: Any, r: int, i: int, kinds: NDArray[np.int8], end: NDArray[np.int64], hop: int, patience: float
) -> None:
    """Forwards that ranks below need in round i: its own micro-batch in any case, others if memory allows."""
    goal = min(end.shape[2], ranks[r].promised + i)
    while ranks[r].forwards < goal and _has_input(ranks, r):
        if not _make_room(ranks[r], kinds):
            return
        _forward(ranks, r, kinds, end, hop, patience)


@jit
def _run_ahead(
    ranks: Any,
    r: int,
    i: int,
    kinds: NDArray[np.int8],
    end: NDArray[np.int64],
    hop: int,
    patience: float,
    yielding: bool,
    arrival: int,
    latest: int,
) -> None:
    """Forwards, until the rank is as far ahead of I of micro-batch i as it was in its warm-up."""
    rank = ranks[r]
    goal = min(end.shape[2], rank.warmup + i)
    while rank.forwards < goal and _has_input(ranks, r) and _make_room(rank, kinds):
        finish = max(rank.clock, _forward_arrival(ranks, r, end, hop)) + rank.forward
        if yielding and finish > max(arrival, rank.clock) and finish > latest:
            return
        _forward(ranks, r, kinds, end, hop, patience)


@jit
def _has_input(ranks: Any, r: int) -> bool:
    """Whether the rank above has placed the forward that the next one here needs."""
    return r == 0 or ranks[r - 1].forwards > ranks[r].forwards


@jit
def _forward_arrival(ranks: Any, r: int, end: NDArray[np.int64], hop: int) -> int:
    return end[0, r - 1, ranks[r].forwards] + hop if r > 0 else 0


@jit
def _make_room(rank: Any, kinds: NDArray[np.int8]) -> bool:
    """Run W until one more forward fits in memory; False when that does not help."""
    while _held(rank) + rank.whole > rank.capacity:
        if rank.weights == rank.inputs:
            return False
        _weight_grad(rank, kinds)
    return True


@jit
def _held(rank: Any) -> float:
    held: float = (rank.forwards - rank.inputs) * rank.whole + (rank.inputs - rank.weights) * rank.part
    return held


@jit
def _fill(rank: Any, kinds: NDArray[np.int8], arrival: int, latest: int, patience: float) -> None:
    """Run W while waiting for an op whose input comes at ``arrival`` and that should start by ``latest``."""
    while rank.weights < rank.inputs and rank.clock + rank.weight_grad <= arrival:
        _weight_grad(rank, kinds)
    if rank.clock < arrival and rank.weights < rank.inputs and _rather_late(rank, arrival, latest, patience):
        _weight_grad(rank, kinds)
    if rank.clock < arrival:
        rank.waited += arrival - rank.clock
        rank.clock = arrival


@jit
def _rather_late(rank: Any, arrival: int, latest: int, patience: float) -> bool:
    """Whether to start a W that ends after ``arrival``: the rank has no time left to wait, or it does no harm."""
    gap = arrival - rank.clock
    if rank.waited + gap > rank.idle:
        return True
    harmless: bool = rank.clock + rank.weight_grad <= latest
    return harmless and gap >= patience * rank.weight_grad


@jit
def _forward(ranks: Any, r: int, kinds: NDArray[np.int8], end: NDArray[np.int64], hop: int, patience: float) -> None:
    rank = ranks[r]
    _fill(rank, kinds, _forward_arrival(ranks, r, end, hop), _NEVER, patience)
    rank.clock += rank.forward
    end[0, r, rank.forwards] = rank.clock
    rank.forwards += 1
    _write(rank, kinds, _F)


@jit
def _input_grad(ranks: Any, r: int, kinds: NDArray[np.int8], end: NDArray[np.int64]) -> None:
    rank = ranks[r]
    rank.clock += rank.input_grad
    end[1, r, rank.inputs] = rank.clock
    rank.inputs += 1
    _write(rank, kinds, _I)


@jit
def _weight_grad(rank: Any, kinds: NDArray[np.int8]) -> None:
    rank.clock += rank.weight_grad
    rank.weights += 1
    _write(rank, kinds, _W)


@jit
def _write(rank: Any, kinds: NDArray[np.int8], kind: int) -> None:
    kinds[rank.cursor] = kind
    rank.cursor += 1
