"""The reference engine: SimPy processes, one per stream, on an ideal network.

When a node starts, its end is known, and so is the arrival of everything that leaves it. So a process
announces arrivals as it starts an op, and a stream that has to wait is woken exactly when its last
dependency arrives: at most two SimPy events per op.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from pipesim.errors import DeadlockError
from pipesim.ir.graph import OpGraph
from pipesim.ir.timeline import Timeline
from pipesim.ir.waiting import describe_deadlock


def run(graph: OpGraph) -> Timeline:
    """Replay a bound graph in simulated time.

    Raises:
        DeadlockError: some streams wait for each other; the message says for what.
    """
    return Timeline(graph, Replay(graph).run() + graph.duration)


class Replay:
    """The state that stream processes share: what every node still waits for."""

    def __init__(self, graph: OpGraph) -> None:
        self.graph = graph
        self.env = simpy.Environment()
        self.duration: list[int] = graph.duration.tolist()
        self.start: list[int] = [-1] * len(graph)
        self.ready: list[int] = [0] * len(graph)
        self.missing: list[int] = np.diff(graph.dep_starts).tolist()
        self.waiting: dict[int, simpy.Event] = {}
        self.consumers = self.consumers_of(graph)

    def run(self) -> NDArray[np.int64]:
        """Start times of all nodes."""
        for first, last in pairwise(self.graph.starts.tolist()):
            if first < last:
                self.env.process(self.stream(first, last))
        self.env.run()
        start = np.array(self.start, np.int64)
        if (start < 0).any():
            raise DeadlockError(describe_deadlock(self.graph, start >= 0))
        return start

    def stream(self, first: int, last: int) -> Generator[simpy.Event, Any, None]:
        """Run the nodes ``first..last-1`` in order."""
        env, duration, start = self.env, self.duration, self.start
        for node in range(first, last):
            if self.missing[node] or self.ready[node] > env.now:
                yield from self.until_ready(node)
            start[node] = now = int(env.now)
            self.announce(node, now + duration[node])
            if duration[node]:
                yield env.timeout(duration[node])

    def until_ready(self, node: int) -> Generator[simpy.Event, Any, None]:
        """Wait until the last dependency of ``node`` has arrived."""
        if self.missing[node]:
            event = self.waiting[node] = self.env.event()
            yield event
        elif self.ready[node] > self.env.now:
            yield self.env.timeout(self.ready[node] - self.env.now)

    def announce(self, node: int, end: int) -> None:
        """Tell every consumer of ``node``, which ends at ``end``, when its dependency will arrive."""
        for consumer, lag in self.consumers[node]:
            self.arrive(consumer, end + lag)

    def arrive(self, consumer: int, moment: int) -> None:
        """A dependency of ``consumer`` arrives at ``moment``; the last one wakes the stream that waits for it."""
        if moment > self.ready[consumer]:
            self.ready[consumer] = moment
        self.missing[consumer] -= 1
        if not self.missing[consumer] and consumer in self.waiting:
            event = self.waiting.pop(consumer)
            event._ok, event._value = True, None
            self.env.schedule(event, delay=max(0, self.ready[consumer] - self.env.now))

    def consumers_of(self, graph: OpGraph, chosen: NDArray[np.bool_] | None = None) -> list[list[tuple[int, int]]]:
        """For every node, the (consumer, lag) pairs of its dependencies, all or the ``chosen`` ones."""
        table: list[list[tuple[int, int]]] = [[] for _ in range(len(graph))]
        consumer = np.repeat(np.arange(len(graph)), np.diff(graph.dep_starts))
        edges = np.arange(len(consumer)) if chosen is None else np.flatnonzero(chosen)
        columns = (graph.dep_node[edges], consumer[edges], graph.dep_lag[edges])
        for node, waiter, lag in zip(*(c.tolist() for c in columns), strict=True):
            table[node].append((waiter, lag))
        return table
