"""The event engine on a first-come, first-served network: every port serves one transfer at a time.

A transfer starts once its ports are free and no transfer that asked earlier waits for either of them; requests of
the same moment are served by rank, then by token. Latency occupies nothing, so back-to-back transfers overlap in
it. What alone uses half a port, as a collective or a message can, occupies it for half of its time.
"""

from __future__ import annotations

import simpy

from pipesim.engine.shared import Moment, Transfer, run_shared
from pipesim.ir.graph import OpGraph
from pipesim.ir.timeline import Timeline
from pipesim.ir.traffic import WHOLE, Traffic


def run(graph: OpGraph, traffic: Traffic) -> Timeline:
    """Replay a bound graph with its transfers queueing for ports.

    Raises:
        DeadlockError: some streams wait for each other; the message says for what.
    """
    return run_shared(graph, traffic, Fifo)


class Fifo:
    """Gives ports to transfers in arrival order."""

    def __init__(self, env: simpy.Environment) -> None:
        self.env = env
        self.busy: set[int] = set()
        self.pending: list[Transfer] = []
        self.end_of_moment = Moment(env, self._serve)

    def carry(self, transfer: Transfer) -> None:
        """Queue a transfer; it is considered once all transfers of this moment are in."""
        self.pending.append(transfer)
        self.end_of_moment.ask()

    def _serve(self) -> None:
        taken, left, now = set(self.busy), [], int(self.env.now)
        for transfer in sorted(self.pending, key=lambda t: t[:2]):
            if taken.isdisjoint(transfer.ports):
                self.busy.update(transfer.ports)
                self._release_later(transfer)
                transfer.done(now, now + transfer.length)
            else:
                left.append(transfer)
            taken.update(transfer.ports)
        self.pending = left

    def _release_later(self, transfer: Transfer) -> None:
        def release(_: simpy.Event) -> None:
            self.busy.difference_update(transfer.ports)
            if self.pending:
                self.end_of_moment.ask()

        occupied = -(-transfer.length * transfer.share // WHOLE)
        self.env.timeout(occupied).callbacks.append(release)
