"""Shapes that several schedules share, as array operations on one rank's ops."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Ops(NamedTuple):
    """Ops of one rank in order: three arrays of one length."""

    kind: NDArray[np.int64]
    stage: NDArray[np.int64]
    microbatch: NDArray[np.int64]


def ops(kind: int, stage: NDArray[np.int64] | int, microbatch: NDArray[np.int64]) -> Ops:
    """Ops of one kind; a single stage serves all micro-batches."""
    count = len(microbatch)
    return Ops(np.full(count, kind), np.broadcast_to(np.asarray(stage, np.int64), (count,)), microbatch)


def in_sequence(*parts: Ops) -> Ops:
    """One part after the other."""
    return Ops(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def warmup_steady_drain(forwards: Ops, backwards: Ops, warmup: int) -> Ops:
    """``warmup`` forwards; then one forward and one backward in turn; then the remaining backwards.

    Both parts must have the same number of ops.
    """
    count = len(forwards.kind)
    warmup = min(warmup, count)
    order = np.empty(2 * count, np.int64)
    steady = count - warmup
    order[:warmup] = np.arange(warmup)
    order[warmup : warmup + 2 * steady : 2] = np.arange(warmup, count)
    order[warmup + 1 : warmup + 2 * steady : 2] = np.arange(count, count + steady)
    order[warmup + 2 * steady :] = np.arange(count + steady, 2 * count)
    return Ops(*(column[order] for column in in_sequence(forwards, backwards)))
