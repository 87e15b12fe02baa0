"""The event engine on a fair network: transfers that cross a port at the same time share it, max-min fairly.

Transfers are fluid flows, as in flow-level network simulators (Velho et al., "On the validity of flow-level TCP
network models", ACM TOMACS 23(4), 2013). Whenever one starts or ends, the rates of all that it shares ports with,
directly or through others, are solved anew (`max_min`). A flow never runs faster than alone: at most at the share of
its ports that its price says. Rates and remaining work are exact fractions; a flow ends at the first whole picosecond
at which all of it is through, and gives back its share then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain

import simpy

from pipesim.engine.max_min import max_min
from pipesim.engine.shared import Moment, Transfer, run_shared
from pipesim.ir.graph import OpGraph
from pipesim.ir.timeline import Timeline
from pipesim.ir.traffic import WHOLE, Traffic


def run(graph: OpGraph, traffic: Traffic) -> Timeline:
    """Replay a bound graph with its transfers sharing ports.

    Raises:
        DeadlockError: some streams wait for each other; the message says for what.
    """
    return run_shared(graph, traffic, Fair)


@dataclass(eq=False)
class Flow:
    """A transfer under way: ``left`` 1024ths of a port times picoseconds to go at ``since``, at ``rate`` 1024ths."""

    transfer: Transfer
    left: Fraction
    since: int
    rate: Fraction = field(default_factory=Fraction)
    turn: int = 0

    def advance(self, now: int) -> None:
        """Count what got through until ``now``."""
        self.left -= self.rate * (now - self.since)
        self.since = now


class Fair:
    """Lets flows share ports."""

    def __init__(self, env: simpy.Environment) -> None:
        self.env = env
        self.flows: dict[int, list[Flow]] = {}
        self.changed: set[int] = set()
        self.end_of_moment = Moment(env, self._share)

    def carry(self, transfer: Transfer) -> None:
        """Start a flow; its rate is found once all that happens in this moment is known."""
        now = int(self.env.now)
        if not (transfer.ports and transfer.length and transfer.share):
            transfer.done(now, now + transfer.length)
            return
        flow = Flow(transfer, Fraction(transfer.length * transfer.share), now)
        for port in transfer.ports:
            self.flows.setdefault(port, []).append(flow)
        self._resolve(flow)

    def _resolve(self, flow: Flow) -> None:
        self.changed.update(flow.transfer.ports)
        self.end_of_moment.ask()

    def _share(self) -> None:
        flows, now = self._affected(), int(self.env.now)
        for flow, rate in zip(flows, _rates(flows), strict=True):
            if rate != flow.rate:
                flow.advance(now)
                flow.rate = rate
                self._end_later(flow)

    def _affected(self) -> list[Flow]:
        """All flows that share a changed port, or share one with such flows, by time, rank and token."""
        found: set[Flow] = set()
        ports, seen = list(self.changed), set(self.changed)
        self.changed = set()
        while ports:
            for flow in self.flows.get(ports.pop(), []):
                if flow not in found:
                    found.add(flow)
                    ports += [port for port in flow.transfer.ports if port not in seen]
                    seen.update(flow.transfer.ports)
        return sorted(found, key=lambda flow: flow.transfer[:2])

    def _end_later(self, flow: Flow) -> None:
        """Plan the end of a flow at its present rate; earlier plans are void."""
        flow.turn += 1
        turn = flow.turn

        def end(_: simpy.Event) -> None:
            if flow.turn == turn:
                for port in flow.transfer.ports:
                    self.flows[port].remove(flow)
                self._resolve(flow)
                flow.transfer.done(flow.transfer.time, int(self.env.now))

        self.env.timeout(int(-(-flow.left // flow.rate))).callbacks.append(end)


def _rates(flows: list[Flow]) -> list[Fraction]:
    """Max-min fair rates of flows that share ports with nobody else, in 1024ths of a port."""
    if len(flows) == 1:
        return [Fraction(flows[0].transfer.share)]
    paths = [flow.transfer.ports for flow in flows]
    capacity = dict.fromkeys(chain.from_iterable(paths), WHOLE)
    return max_min(paths, [flow.transfer.share for flow in flows], capacity)
