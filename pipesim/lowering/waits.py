"""Dependencies while they are collected, batch by batch, and their lists by consumer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Nodes = NDArray[np.int32]
NOWHERE = -1


class Waits:
    """Batches of (consumer, producer, message); within a batch no consumer occurs twice.

    What the second op of an overlapped pair waits for, its first waits for in its place, last of all.
    """

    def __init__(self, paired: NDArray[np.bool_]) -> None:
        self._nodes = len(paired)
        self._second = np.concatenate([[False], paired[:-1]]) if paired.any() else None
        self._batches: list[tuple[Nodes, Nodes, Nodes]] = []
        self._of_pairs: list[tuple[Nodes, Nodes, Nodes]] = []

    def add(self, consumer: Nodes, producer: Nodes, message: Nodes) -> None:
        """Let each consumer wait for its producer and for the message that travels, -1 for none."""
        if self._second is None:
            self._batches.append((consumer, producer, message))
            return
        second = self._second[consumer]
        self._batches.append((consumer[~second], producer[~second], message[~second]))
        self._of_pairs.append((consumer[second] - np.int32(1), producer[second], message[second]))

    def by_consumer(self) -> tuple[Nodes, Nodes, Nodes]:
        """Where each node's list begins (n + 1,), and producers and messages (m,), in the order of adding."""
        batches = [batch for batch in (*self._batches, *self._of_pairs) if len(batch[0])]
        starts = np.zeros(self._nodes + 1, np.int32)
        for consumer, _, _ in batches:
            starts[consumer + 1] += 1
        np.cumsum(starts, out=starts)
        producers, messages = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.int32)
        free = starts[:-1].copy()
        for consumer, producer, message in batches:
            place = free[consumer]
            producers[place], messages[place] = producer, message
            free[consumer] = place + 1
        return starts, producers, messages
