"""Dependencies while they are collected, and their lists by consumer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Nodes = NDArray[np.int64]
Column = NDArray[np.int32]
NOWHERE = -1


class Waits:
    """Columns of (producer, message) over the n nodes, -1 where free: as many as the busiest consumer needs.

    What the second op of an overlapped pair waits for, its first waits for in its place, last of all.
    """

    def __init__(self, paired: NDArray[np.bool_]) -> None:
        self._nodes = len(paired)
        self._second = np.concatenate([[False], paired[:-1]]) if paired.any() else None
        self._columns: list[tuple[Column, Column]] = []
        self._of_pairs: list[tuple[Nodes, Nodes, Column]] = []

    def add(self, consumer: Nodes, producer: Nodes, message: Column) -> None:
        """Let each consumer, all different, wait for its producer and for the message that travels, -1 for none."""
        if self._second is not None:
            second = self._second[consumer]
            self._of_pairs.append((consumer[second] - 1, producer[second], message[second]))
            consumer, producer, message = consumer[~second], producer[~second], message[~second]
        self._place(consumer, producer, message)

    def _place(self, consumer: Nodes, producer: Nodes, message: Column, column: int = 0) -> None:
        """Fill a column where it is free, and the next one where it is not."""
        if len(consumer) == 0:
            return
        if column == len(self._columns):
            free = np.full((2, self._nodes), NOWHERE, np.int32)
            self._columns.append((free[0], free[1]))
        producers, messages = self._columns[column]
        taken = producers[consumer] != NOWHERE
        if taken.any():
            self._place(consumer[taken], producer[taken], message[taken], column + 1)
            consumer, producer, message = consumer[~taken], producer[~taken], message[~taken]
        producers[consumer], messages[consumer] = producer, message

    def by_consumer(self) -> tuple[Column, Column, Column]:
        """Where each node's list begins (n + 1,), and producers and messages (m,), in the order of adding."""
        while self._of_pairs:
            self._place(*self._of_pairs.pop(0))
        starts = np.zeros(self._nodes + 1, np.int32)
        if not self._columns:
            return starts, np.empty(0, np.int32), np.empty(0, np.int32)
        producers, messages = self._columns[0]
        if len(self._columns) > 1:
            producers, messages = (np.stack(parts, axis=1) for parts in zip(*self._columns, strict=True))
        waits = producers != NOWHERE
        np.cumsum(waits if waits.ndim == 1 else waits.sum(axis=1), out=starts[1:])
        return starts, producers[waits], messages[waits]
