"""Program -> op graph: who waits for whom, by the rules of `pipesim.ir.rules`, and what travels between ranks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.graph import COMPUTE, NO_MESSAGE, OpGraph, Stream
from pipesim.ir.op import Kind
from pipesim.ir.program import Program
from pipesim.ir.rules import ROLE_KINDS, RULES, Role, Rule

Nodes = NDArray[np.int64]
NOWHERE = -1


def connect(program: Program) -> OpGraph:
    """The graph of a program's ops on the ranks' compute streams, with durations and lags still zero.

    Waiting that the stream order already implies is left out. An overlapped pair is two nodes: the first
    waits for what either op needs and carries the pair's duration, the second takes no time.
    """
    index = RoleIndex(program)
    slots = 4 if program.paired.any() else 2
    producer = np.full((len(program), slots), NOWHERE, np.int64)
    message = np.full((len(program), slots), NO_MESSAGE, np.int32)
    rank = program.rank
    for rule in RULES:
        _apply(rule, program, index, rank, producer, message)
    if program.paired.any():
        _merge_pairs(program.paired, producer, message)
    _connect_exchanges(program, producer, message)
    waits = producer != NOWHERE
    edges = int(waits.sum())
    return OpGraph(
        placement=program.placement,
        route_of=program.route_of,
        streams=[Stream(r, COMPUTE) for r in range(program.ranks)],
        starts=program.starts,
        kind=program.kind,
        stage=program.stage,
        microbatch=program.microbatch,
        paired=program.paired,
        duration=np.zeros(len(program), np.int64),
        dep_starts=np.concatenate([[0], np.cumsum(waits.sum(axis=1))]),
        dep_node=producer[waits],
        dep_fraction=None,
        dep_message=message[waits],
        dep_lag=np.zeros(edges, np.int64),
    )


class RoleIndex:
    """Where to find the op that plays a role for a stage and a micro-batch."""

    def __init__(self, program: Program) -> None:
        self.stages = program.placement.stages
        self.microbatches = program.microbatches
        self._key = program.stage.astype(np.int64) * self.microbatches + program.microbatch
        self.exchanges = bool((program.kind == Kind.SEND_F).any() or (program.kind == Kind.SEND_B).any())
        self.nodes: dict[Role, Nodes] = {}
        self._tables: dict[Role, Nodes] = {}
        for role, kinds in ROLE_KINDS.items():
            self.nodes[role] = np.flatnonzero(np.isin(program.kind, kinds))
        recompute = np.flatnonzero(program.kind == Kind.RECOMPUTE)
        for role, nodes in self.nodes.items():
            self._tables[role] = self._table(nodes)
        if len(recompute):
            self._take_over(recompute)

    def find(self, role: Role, stage: NDArray[np.int32], microbatch: NDArray[np.int32]) -> Nodes:
        """Nodes that play ``role``, -1 where there is none (stages outside the model included)."""
        inside = (stage >= 0) & (stage < self.stages)
        key = np.where(inside, stage, 0).astype(np.int64) * self.microbatches + microbatch
        return np.where(inside, self._tables[role][key], NOWHERE)

    def _table(self, nodes: Nodes) -> Nodes:
        table = np.full(self.stages * self.microbatches, NOWHERE, np.int64)
        table[self._key[nodes]] = nodes
        return table

    def _take_over(self, recompute: Nodes) -> None:
        """Let recomputations receive the gradient instead of the backwards that follow them."""
        table = self._tables[Role.GRADIENT_IN]
        table[self._key[recompute]] = recompute
        self.nodes[Role.GRADIENT_IN] = np.sort(table[table != NOWHERE])


def _apply(
    rule: Rule,
    program: Program,
    index: RoleIndex,
    rank: NDArray[np.int32],
    producer: Nodes,
    message: NDArray[np.int32],
) -> None:
    """Fill one rule's dependencies into the next free column of each consumer."""
    consumer = index.nodes[rule.consumer]
    found = index.find(rule.producer, program.stage[consumer] + rule.offset, program.microbatch[consumer])
    same_rank = rank[consumer] == rank[found]
    needed = (found != NOWHERE) & ~(same_rank & (found < consumer))
    if rule.offset and index.exchanges:
        needed &= same_rank
    consumer, found, same_rank = consumer[needed], found[needed], same_rank[needed]
    column = (producer[consumer, 0] != NOWHERE).astype(np.int64)
    producer[consumer, column] = found
    if rule.offset:
        boundary = np.minimum(program.stage[consumer], program.stage[found])
        message[consumer, column] = np.where(same_rank, NO_MESSAGE, boundary)


def _merge_pairs(paired: NDArray[np.bool_], producer: Nodes, message: NDArray[np.int32]) -> None:
    """Let the first op of each pair wait for what the second needs."""
    first = np.flatnonzero(paired)
    for table in (producer, message):
        table[first, 2:4] = table[first + 1, 0:2]
    producer[first + 1] = NOWHERE


def _connect_exchanges(program: Program, producer: Nodes, message: NDArray[np.int32]) -> None:
    """Let the two ends of a blocking transfer meet: each waits for both ranks to have arrived at it."""
    arrived = _last_before(program)
    for send, receive, step in ((Kind.SEND_F, Kind.RECV_F, 1), (Kind.SEND_B, Kind.RECV_B, -1)):
        sends, receives = np.flatnonzero(program.kind == send), np.flatnonzero(program.kind == receive)
        key = program.stage.astype(np.int64) * program.microbatches + program.microbatch
        sends = sends[np.argsort(key[sends] + step * program.microbatches)]
        receives = receives[np.argsort(key[receives])]
        boundary = np.minimum(program.stage[sends], program.stage[receives])
        for end in (sends, receives):
            producer[end, 0], producer[end, 1] = arrived[sends], arrived[receives]
            message[end, 0] = message[end, 1] = boundary


def _last_before(program: Program) -> Nodes:
    """For every node, the last op before it on its rank that is no transfer; -1 at the start of a rank."""
    nodes = np.arange(len(program))
    transfer = (program.kind >= Kind.SEND_F) & (program.kind <= Kind.RECV_B)
    latest = np.maximum.accumulate(np.where(transfer, NOWHERE, nodes))
    first = np.repeat(program.starts[:-1], np.diff(program.starts))
    return np.where(latest >= first, latest, NOWHERE)
