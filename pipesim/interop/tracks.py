"""Tracks of a trace: one per stream of a rank, and more where ops of a stream overlap."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Ints = NDArray[np.int64]

COMPUTE = "compute"


@dataclass(frozen=True, eq=False)
class Tracks:
    """``of_op`` is every op's track, shape (n,); ``names`` says what each track is called."""

    of_op: Ints
    names: dict[int, str]


def tracks_of(frame: pd.DataFrame, start: Ints, end: Ints) -> Tracks:
    """Compute first, then the other resources by name; overlapping ops of one stream go to tracks of their own.

    ``start`` and ``end`` are the ops' times in whole units.
    """
    rank = frame["rank"].to_numpy(np.int64)
    resources = sorted(map(str, frame["resource"].unique()), key=lambda name: (name != COMPUTE, name))
    of_op, names, base = np.zeros(len(frame), np.int64), {}, 0
    for resource in resources:
        own = np.flatnonzero((frame["resource"] == resource).to_numpy())
        level = np.zeros(len(own), np.int64)
        for one in np.unique(rank[own]):
            rows = np.flatnonzero(rank[own] == one)
            level[rows] = levels(start[own[rows]], end[own[rows]])
        of_op[own] = base + level
        for n in range(int(level.max()) + 1):
            names[base + n] = resource if n == 0 else f"{resource}, overlapped"
        base += int(level.max()) + 1
    return Tracks(of_op, names)


def levels(start: Ints, end: Ints) -> Ints:
    """The lowest level for every interval such that intervals on one level never overlap; ties in given order."""
    order = np.argsort(start, kind="stable")
    result = np.zeros(len(start), np.int64)
    if (start[order[1:]] >= np.maximum.accumulate(end[order])[:-1]).all():
        return result
    busy: list[tuple[int, int]] = []
    free: list[int] = []
    used = 0
    for i in order.tolist():
        while busy and busy[0][0] <= start[i]:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if not free:
            free.append(used)
            used += 1
        result[i] = heapq.heappop(free)
        heapq.heappush(busy, (int(end[i]), int(result[i])))
    return result
