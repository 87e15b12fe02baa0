"""Program -> op graph: who waits for whom, by the rules of `pipesim.ir.rules`, and what travels between ranks.

Rules are applied to whole tables of shape (S, M), the node that plays a role for every stage and micro-batch: a
rule is then one table beside another, shifted by some stages.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.graph import COMPUTE, NO_MESSAGE, OpGraph, Stream
from pipesim.ir.op import Kind, is_any
from pipesim.ir.program import Program
from pipesim.ir.rules import ROLE_KINDS, RULES, Role, Rule
from pipesim.ir.waits import NOWHERE, Nodes, Waits

Mask = NDArray[np.bool_]


def connect(program: Program) -> OpGraph:
    """The graph of a program's ops on the ranks' compute streams, with durations and lags still zero.

    Waiting that the stream order already implies is left out. An overlapped pair is two nodes: the first
    waits for what either op needs and carries the pair's duration, the second takes no time.
    """
    waits = Waits(program.paired)
    tables = role_tables(program)
    exchanges = _has(program, (Kind.SEND_F, Kind.SEND_B))
    for rule in RULES:
        if rule.consumer in tables and rule.producer in tables:
            _apply(rule, program, tables, exchanges, waits)
    if exchanges:
        _connect_exchanges(program, waits)
    dep_starts, dep_node, dep_message = waits.by_consumer()
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
        dep_starts=dep_starts,
        dep_node=dep_node,
        dep_fraction=None,
        dep_message=dep_message,
        dep_lag=np.zeros(len(dep_node), np.int64),
    )


def role_tables(program: Program) -> dict[Role, Nodes]:
    """For every role that some op plays, the node that plays it, shape (S, M); -1 where none does."""
    place = np.multiply(program.stage, program.microbatches, dtype=np.int64)
    place += program.microbatch
    by_kinds = {kinds: _table(program, place, kinds) for kinds in set(ROLE_KINDS.values()) if _has(program, kinds)}
    tables = {role: by_kinds[kinds] for role, kinds in ROLE_KINDS.items() if kinds in by_kinds}
    if _has(program, (Kind.RECOMPUTE,)):
        again = _table(program, place, (Kind.RECOMPUTE,))
        tables[Role.GRADIENT_IN] = np.where(again != NOWHERE, again, tables[Role.GRADIENT_IN])
    return tables


def _table(program: Program, place: NDArray[np.int64], kinds: Sequence[Kind]) -> Nodes:
    shape = (program.placement.stages, program.microbatches)
    table = np.full(shape, NOWHERE, np.int64)
    nodes = np.flatnonzero(is_any(program.kind, kinds))
    table.ravel()[place[nodes]] = nodes
    return table


def _has(program: Program, kinds: Sequence[Kind]) -> bool:
    return bool(is_any(program.kind, kinds).any())


def _apply(rule: Rule, program: Program, tables: dict[Role, Nodes], exchanges: bool, waits: Waits) -> None:
    """Collect one rule's dependencies; with exchanges in the program, these carry what leaves a rank."""
    stages = program.placement.stages
    first, last = max(0, -rule.offset), stages - max(0, rule.offset)
    consumer = tables[rule.consumer][first:last]
    producer = tables[rule.producer][first + rule.offset : last + rule.offset]
    same_rank = _same_rank(program, first, last, rule.offset)
    needed = (consumer != NOWHERE) & (producer != NOWHERE)
    if same_rank.any():
        needed &= ~same_rank | (producer > consumer)
    if rule.offset and exchanges:
        needed &= same_rank
    boundary = np.arange(first, last, dtype=np.int32)[:, None] + np.int32(min(0, rule.offset))
    message = np.where(same_rank, np.int32(NO_MESSAGE), boundary)
    message = np.broadcast_to(message, needed.shape)
    if needed.all():
        waits.add(consumer.ravel(), producer.ravel(), message.ravel())
    else:
        waits.add(consumer[needed], producer[needed], message[needed])


def _same_rank(program: Program, first: int, last: int, offset: int) -> Mask:
    """Whether stages s and s + offset share a rank, for s of first..last-1; shape (stages, 1) or (stages, M)."""
    rank_of = program.placement.rank_of
    same: Mask = (rank_of[:, first:last] == rank_of[:, first + offset : last + offset]).T
    return same if same.shape[1] == 1 else same[:, program.route_of]


def _connect_exchanges(program: Program, waits: Waits) -> None:
    """Let the two ends of a blocking transfer meet: each waits for both ranks to have arrived at it."""
    arrived = _last_before(program)
    for send, receive, step in ((Kind.SEND_F, Kind.RECV_F, 1), (Kind.SEND_B, Kind.RECV_B, -1)):
        sends, receives = np.flatnonzero(program.kind == send), np.flatnonzero(program.kind == receive)
        key = program.stage.astype(np.int64) * program.microbatches + program.microbatch
        sends = sends[np.argsort(key[sends] + step * program.microbatches)]
        receives = receives[np.argsort(key[receives])]
        boundary = np.minimum(program.stage[sends], program.stage[receives])
        for end in (sends, receives):
            for other in (arrived[sends], arrived[receives]):
                some = other != NOWHERE
                waits.add(end[some], other[some], boundary[some])


def _last_before(program: Program) -> NDArray[np.int64]:
    """For every node, the last op before it on its rank that is no transfer; -1 at the start of a rank."""
    nodes = np.arange(len(program))
    transfer = (program.kind >= Kind.SEND_F) & (program.kind <= Kind.RECV_B)
    latest = np.maximum.accumulate(np.where(transfer, NOWHERE, nodes))
    first = np.repeat(program.starts[:-1], np.diff(program.starts))
    return np.where(latest >= first, latest, NOWHERE)
