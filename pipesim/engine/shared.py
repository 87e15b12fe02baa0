"""The event engine on a network whose ports are shared: what `fifo` and `fair` have in common.

Messages leave when their producers end, and arrive when the network has carried them, plus their latency.
Collectives run on their stream for as long as the network takes to carry them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Protocol

import numpy as np
import simpy
from numpy.typing import NDArray

from pipesim.engine.event import Replay
from pipesim.ir.graph import NO_MESSAGE, OpGraph
from pipesim.ir.timeline import Timeline
from pipesim.ir.traffic import Traffic

_AFTER_EVERYTHING = 2
"""SimPy priority: after all other events of the moment, so that everything that happens in it is known."""


class Transfer(NamedTuple):
    """Something to be carried. Sorted by the time when it was asked for, then rank, then token.

    Alone it takes ``length`` picoseconds and keeps ``share`` 1024ths of each of its ``ports`` busy. ``done`` is
    called with its start and its end as soon as the network knows them.
    """

    time: int
    order: tuple[int, int, int, int]
    ports: tuple[int, ...]
    length: int
    share: int
    done: Callable[[int, int], object]


class Network(Protocol):
    """Carries transfers."""

    def carry(self, transfer: Transfer) -> None:
        """Take a transfer that wants to start now."""


class Moment:
    """Runs an action once at the end of the current moment, however often it is asked to."""

    def __init__(self, env: simpy.Environment, action: Callable[[], None]) -> None:
        self.env, self.action = env, action
        self.planned = False

    def ask(self) -> None:
        """Plan the action."""
        if not self.planned:
            self.planned = True
            event = self.env.event()
            event._ok, event._value = True, None
            event.callbacks.append(self._act)
            self.env.schedule(event, priority=_AFTER_EVERYTHING)  # type: ignore[arg-type]

    def _act(self, _: simpy.Event) -> None:
        self.planned = False
        self.action()


def run_shared(graph: OpGraph, traffic: Traffic, network: Callable[[simpy.Environment], Network]) -> Timeline:
    """Replay a bound graph on a network.

    Collectives that the network slowed down have longer durations in the timeline's graph.

    Raises:
        DeadlockError: some streams wait for each other; the message says for what.
    """
    replay = SharedReplay(graph, traffic, network)
    start = replay.run()
    duration = np.array(replay.duration, np.int64)
    return Timeline(graph.bound(duration, graph.dep_lag), start + duration, replay.arrivals())


class SharedReplay(Replay):
    """A replay whose messages and collectives travel through a network."""

    def __init__(self, graph: OpGraph, traffic: Traffic, network: Callable[[simpy.Environment], Network]) -> None:
        super().__init__(graph)
        self.network = network(self.env)
        columns = (graph.rank, graph.stage, graph.kind, graph.microbatch)
        self.order = list(zip(*(a.tolist() for a in columns), strict=True))
        self.node_ports, self.node_share = _ports(traffic.node_ports), traffic.node_share.tolist()
        self.messages = _Messages(graph, traffic)
        self.arrived = np.full(len(graph.dep_node), -1, np.int64)

    def stream(self, first: int, last: int) -> Generator[simpy.Event, Any, None]:
        """Run the nodes ``first..last-1`` in order; send messages as nodes end."""
        for node in range(first, last):
            yield from self.until_ready(node)
            start = int(self.env.now)
            end = start + self.duration[node]
            if end > start and self.node_ports[node] and self.node_share[node]:
                start, end = yield self.carried(node)
            self.start[node], self.duration[node] = start, end - start
            self.announce(node, end)
            if end > self.env.now:
                yield self.env.timeout(end - self.env.now)
            for message in self.messages.sent_by(node):
                self.send(message)

    def carried(self, node: int) -> simpy.Event:
        """An event with the start and the end of a collective."""
        event = self.env.event()
        self.network.carry(
            Transfer(
                time=int(self.env.now),
                order=self.order[node],
                ports=self.node_ports[node],
                length=self.duration[node],
                share=self.node_share[node],
                done=lambda start, end: event.succeed((start, end)),
            )
        )
        return event

    def send(self, message: int) -> None:
        """Have a message carried; everything that waits for it gets it when its latency is over, too.

        A dependency on the earlier of two ends of a blocking transfer counts as arrived before the message, by as
        much as this end was early: the rank waited for its partner then, not for the network.
        """
        edges, messages, left = self.messages.edges[message], self.messages, int(self.env.now)

        def done(_: int, end: int) -> None:
            for edge in edges:
                moment = end + messages.latency[edge]
                self.arrived[edge] = self.end_of(messages.producer[edge]) + moment - left
                self.arrive(messages.consumer[edge], moment)

        order = self.order[messages.producer[edges[0]]]
        length, ports, share = messages.occupied[edges[0]], messages.ports[edges[0]], messages.share[edges[0]]
        self.network.carry(Transfer(left, order, ports, length, share, done))

    def end_of(self, node: int) -> int:
        """When a node that has started ends."""
        return self.start[node] + self.duration[node]

    def consumers_of(self, graph: OpGraph, chosen: NDArray[np.bool_] | None = None) -> list[list[tuple[int, int]]]:
        """Only what moves no data is announced at the start of a node."""
        return super().consumers_of(graph, graph.dep_message == NO_MESSAGE)

    def arrivals(self) -> NDArray[np.int64]:
        """When each dependency arrived."""
        end = np.array(self.start, np.int64) + np.array(self.duration, np.int64)
        plain = end[self.graph.dep_node] + self.graph.dep_lag
        return np.where(self.arrived >= 0, self.arrived, plain)


class _Messages:
    """The messages of a graph: who sends them, and the dependencies that wait for each."""

    def __init__(self, graph: OpGraph, traffic: Traffic) -> None:
        self.consumer = np.repeat(np.arange(len(graph)), np.diff(graph.dep_starts)).tolist()
        self.producer = graph.dep_node.tolist()
        self.ports = _ports(traffic.dep_ports)
        self.occupied, self.latency = traffic.dep_occupied.tolist(), traffic.dep_latency.tolist()
        self.share = traffic.dep_share.tolist()
        self.edges: list[list[int]] = [[] for _ in range(int(traffic.message.max(initial=-1)) + 1)]
        self._outgoing: list[list[int]] = [[] for _ in range(len(graph))]
        for edge in np.flatnonzero(traffic.message >= 0).tolist():
            message = int(traffic.message[edge])
            self.edges[message].append(edge)
            self._outgoing[self.producer[edge]].append(message)
        self._missing = [len(edges) for edges in self.edges]

    def sent_by(self, node: int) -> list[int]:
        """Messages that may leave now that ``node`` has ended."""
        leaving = []
        for message in self._outgoing[node]:
            self._missing[message] -= 1
            if not self._missing[message]:
                leaving.append(message)
        return leaving


def _ports(table: NDArray[np.int32]) -> list[tuple[int, ...]]:
    return [tuple(port for port in row if port >= 0) for row in table.tolist()]
