"""Timelines: when every op of a graph started and ended. What an engine produces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.graph import OpGraph

PICOSECONDS = 10**12
"""Picoseconds in a second; all engine times are integer picoseconds."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """``start`` and ``end`` of every node of ``graph``, int64 picoseconds, shape (n,).

    ``arrival`` is when each dependency arrived, shape (m,): with lags that never change (an ideal network)
    it follows from ``end``; an engine that lets transfers share links reports what happened.
    """

    graph: OpGraph
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    arrival: NDArray[np.int64]

    @property
    def makespan(self) -> int:
        """Last end minus first start, over all streams, in picoseconds."""
        if len(self.end) == 0:
            return 0
        return int(self.end.max() - self.start.min())


def to_picoseconds(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Seconds, any shape, rounded to the nearest picosecond."""
    return np.rint(np.asarray(seconds, np.float64) * PICOSECONDS).astype(np.int64)


def to_seconds(picoseconds: int) -> float:
    """Picoseconds as seconds."""
    return picoseconds / PICOSECONDS
