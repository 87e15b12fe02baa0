"""Shapes that several schedules share, as array operations on one rank's ops."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.integer]


class Ops(NamedTuple):
    """Ops of one rank in order: three arrays of one length."""

    kind: Column
    stage: Column
    microbatch: Column


def ops(kind: int, stage: Column | int, microbatch: Column) -> Ops:
    """Ops of one kind; a single stage serves all micro-batches."""
    count = len(microbatch)
    stages = stage if isinstance(stage, np.ndarray) else np.full(count, stage, np.int32)
    return Ops(np.full(count, kind, np.int8), stages, microbatch)


def in_sequence(*parts: Ops) -> Ops:
    """One part after the other."""
    return Ops(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def warmup_steady_drain(forwards: Ops, backwards: Ops, warmup: int) -> Ops:
    """``warmup`` forwards; then one forward and one backward in turn; then the remaining backwards.

    Both parts must have the same number of ops.
    """
    warmup = min(warmup, len(forwards.kind))
    return Ops(*(_alternate(f, b, warmup) for f, b in zip(forwards, backwards, strict=True)))


def _alternate(forwards: Column, backwards: Column, warmup: int) -> Column:
    steady = len(forwards) - warmup
    drain = warmup + 2 * steady
    out = np.empty(2 * len(forwards), forwards.dtype)
    out[:warmup] = forwards[:warmup]
    out[warmup:drain:2] = forwards[warmup:]
    out[warmup + 1 : drain : 2] = backwards[:steady]
    out[drain:] = backwards[steady:]
    return out
