"""The event engine on a first-come, first-served network: every port serves one transfer at a time.

A transfer asks for its ports when its producer ends. It starts once both are free and no transfer that asked
earlier waits for either of them; requests of the same moment are served by rank, then by token. Latency
occupies nothing, so back-to-back transfers overlap in it. Collectives occupy their rank's ports while they run.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import numpy as np
import simpy
from numpy.typing import NDArray

from pipesim.engine.event import Replay
from pipesim.ir.graph import NO_MESSAGE, OpGraph
from pipesim.ir.timeline import Timeline
from pipesim.ir.traffic import Traffic

_AFTER_EVERYTHING = 2
"""SimPy priority of arbitration: after all other events of the moment, so that all requests are in."""


def run(graph: OpGraph, traffic: Traffic) -> Timeline:
    """Replay a bound graph with its transfers queueing for ports.

    Raises:
        DeadlockError: some streams wait for each other; the message says for what.
    """
    replay = SharedReplay(graph, traffic)
    start = replay.run()
    return Timeline(graph, start + graph.duration, replay.arrivals())


class Request(NamedTuple):
    """Somebody waits for ports. Sorted by time, then rank, then token."""

    time: int
    order: tuple[int, int, int, int]
    ports: tuple[int, ...]
    occupied: int
    granted: Callable[[], object]


class Arbiter:
    """Gives ports to requests in arrival order."""

    def __init__(self, env: simpy.Environment) -> None:
        self.env = env
        self.busy: set[int] = set()
        self.pending: list[Request] = []
        self.planned = -1

    def ask(self, request: Request) -> None:
        """Queue a request; it is considered once all requests of this moment are in."""
        self.pending.append(request)
        self._plan()

    def _plan(self) -> None:
        if self.planned != self.env.now:
            self.planned = int(self.env.now)
            event = self.env.event()
            event._ok, event._value = True, None
            event.callbacks.append(lambda _: self._serve())
            self.env.schedule(event, priority=_AFTER_EVERYTHING)  # type: ignore[arg-type]

    def _serve(self) -> None:
        self.planned = -1
        taken, left = set(self.busy), []
        for request in sorted(self.pending, key=lambda r: r[:2]):
            if taken.isdisjoint(request.ports):
                self.busy.update(request.ports)
                self._release_later(request)
                request.granted()
            else:
                left.append(request)
            taken.update(request.ports)
        self.pending = left

    def _release_later(self, request: Request) -> None:
        def release(_: simpy.Event) -> None:
            self.busy.difference_update(request.ports)
            if self.pending:
                self._plan()

        self.env.timeout(request.occupied).callbacks.append(release)


class SharedReplay(Replay):
    """A replay whose messages travel through an arbiter instead of arriving by themselves."""

    def __init__(self, graph: OpGraph, traffic: Traffic) -> None:
        self.graph, self.traffic = graph, traffic
        self.order = list(
            zip(*(a.tolist() for a in (graph.rank, graph.stage, graph.kind, graph.microbatch)), strict=True)
        )
        self.node_ports = [tuple(p for p in row if p >= 0) for row in traffic.node_ports.tolist()]
        super().__init__(graph)
        self.arbiter = Arbiter(self.env)
        self.outgoing = _outgoing(graph)
        self.arrived = np.full(len(graph.dep_node), -1, np.int64)

    def stream(self, first: int, last: int) -> Generator[simpy.Event, Any, None]:
        """Run the nodes ``first..last-1`` in order; send messages as nodes end."""
        for node in range(first, last):
            yield from self.until_ready(node)
            if self.node_ports[node] and self.duration[node]:
                yield self.ports_granted(node)
            self.start[node] = int(self.env.now)
            self.announce(node, int(self.env.now) + self.duration[node])
            if self.duration[node]:
                yield self.env.timeout(self.duration[node])
            for edge, consumer in self.outgoing[node]:
                self.send(node, edge, consumer)

    def ports_granted(self, node: int) -> simpy.Event:
        """An event that succeeds when a collective has its ports."""
        event = self.env.event()
        ports, length = self.node_ports[node], self.duration[node]
        self.arbiter.ask(Request(int(self.env.now), self.order[node], ports, length, event.succeed))
        return event

    def send(self, node: int, edge: int, consumer: int) -> None:
        """Ask for the ports of a message; it arrives a fixed time after it gets them."""
        ports = tuple(p for p in self.traffic.dep_ports[edge].tolist() if p >= 0)
        lag = int(self.graph.dep_lag[edge])

        def granted() -> None:
            self.arrived[edge] = int(self.env.now) + lag
            self.arrive(consumer, int(self.arrived[edge]))

        occupied = int(self.traffic.dep_occupied[edge])
        self.arbiter.ask(Request(int(self.env.now), self.order[node], ports, occupied, granted))

    def consumers_of(self, graph: OpGraph, chosen: NDArray[np.bool_] | None = None) -> list[list[tuple[int, int]]]:
        """Only what moves no data is announced at the start of a node."""
        return super().consumers_of(graph, graph.dep_message == NO_MESSAGE)

    def arrivals(self) -> NDArray[np.int64]:
        """When each dependency arrived."""
        end = np.array(self.start, np.int64) + self.graph.duration
        plain = end[self.graph.dep_node] + self.graph.dep_lag
        return np.where(self.arrived >= 0, self.arrived, plain)


def _outgoing(graph: OpGraph) -> list[list[tuple[int, int]]]:
    """For every node, the (dependency, consumer) pairs of the messages that it sends."""
    table: list[list[tuple[int, int]]] = [[] for _ in range(len(graph))]
    consumer = np.repeat(np.arange(len(graph)), np.diff(graph.dep_starts))
    for edge in np.flatnonzero(graph.dep_message != NO_MESSAGE).tolist():
        table[int(graph.dep_node[edge])].append((edge, int(consumer[edge])))
    return table
