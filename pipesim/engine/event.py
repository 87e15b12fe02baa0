"""The reference engine: SimPy processes, one per stream, on an ideal network.

When a node starts, its end is known, and so is the arrival of everything that leaves it. So a process
announces arrivals as it starts an op, and a stream that has to wait is woken exactly when its last
dependency arrives: at most two SimPy events per op.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator
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
    replay = _Replay(graph)
    replay.env.run()
    started = replay.start_array()
    if (started < 0).any():
        raise DeadlockError(describe_deadlock(graph, started >= 0))
    end = started + graph.duration
    return Timeline(graph, started, end, end[graph.dep_node] + graph.dep_lag)


class _Replay:
    """The state that stream processes share: what every node still waits for."""

    def __init__(self, graph: OpGraph) -> None:
        self.env = simpy.Environment()
        self.duration: list[int] = graph.duration.tolist()
        self.start: list[int] = [-1] * len(graph)
        self.ready: list[int] = [0] * len(graph)
        self.missing: list[int] = np.diff(graph.dep_starts).tolist()
        self.waiting: dict[int, simpy.Event] = {}
        self.consumers = _consumers(graph)
        starts = graph.starts.tolist()
        for first, last in itertools.pairwise(starts):
            if first < last:
                self.env.process(self.stream(first, last))

    def stream(self, first: int, last: int) -> Generator[simpy.Event, Any, None]:
        """Run the nodes ``first..last-1`` in order."""
        env, duration, ready, missing, start = self.env, self.duration, self.ready, self.missing, self.start
        for node in range(first, last):
            if missing[node]:
                event = self.waiting[node] = env.event()
                yield event
            elif ready[node] > env.now:
                yield env.timeout(ready[node] - env.now)
            start[node] = env.now
            self.announce(node, env.now + duration[node])
            if duration[node]:
                yield env.timeout(duration[node])

    def announce(self, node: int, end: int) -> None:
        """Tell every consumer of ``node`` when its dependency will arrive; wake those that have all."""
        for consumer, lag in self.consumers[node]:
            if end + lag > self.ready[consumer]:
                self.ready[consumer] = end + lag
            self.missing[consumer] -= 1
            if not self.missing[consumer] and consumer in self.waiting:
                self.wake(consumer)

    def wake(self, node: int) -> None:
        """Succeed the event that ``node``'s stream waits on, at the time its last dependency arrives."""
        event = self.waiting.pop(node)
        event._ok, event._value = True, None
        self.env.schedule(event, delay=max(0, self.ready[node] - self.env.now))

    def start_array(self) -> NDArray[np.int64]:
        """Start times, -1 for nodes that never started."""
        return np.array(self.start, np.int64)


def _consumers(graph: OpGraph) -> list[list[tuple[int, int]]]:
    """For every node, the (consumer, lag) pairs that wait for it."""
    table: list[list[tuple[int, int]]] = [[] for _ in range(len(graph))]
    consumer = np.repeat(np.arange(len(graph)), np.diff(graph.dep_starts)).tolist()
    for node, waiter, lag in zip(graph.dep_node.tolist(), consumer, graph.dep_lag.tolist(), strict=True):
        table[node].append((waiter, lag))
    return table
