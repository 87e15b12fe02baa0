"""Blocking point-to-point communication: sends and receives on the compute streams, as Megatron-LM without overlap.

Between two compute ops a rank exchanges everything that is due in one batch: it sends what the op before
produced and receives what the rule below assigns to this place. A receive stands after the last op that starts
before the sender ends, by an estimate (all forwards one unit, backwards two, transfers free). So both ends of a
transfer reach it at about the same time; ServiceNow/Fast-LLM:fast_llm/engine/schedule/runner.py places its receives
likewise. No circular wait can arise, whatever the order of the ops: what a rank does next waits only for ops that,
by the estimate, start before it does.

Interleaved 1F1B in Megatron-LM exchanges less often: after each forward of the warm-up, after each forward and
backward *together* in the steady state, and after each backward of the drain, always sending what was just made
and receiving what comes next (forward_backward_pipelining_with_interleaving in megatron/core/pipeline_parallel/
schedules.py). All ranks then go in lockstep.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.connect import connect
from pipesim.ir.graph import NO_MESSAGE, OpGraph
from pipesim.ir.op import Kind
from pipesim.ir.program import Program
from pipesim.ir.replay import NEVER, earliest_ends
from pipesim.lowering.insert import insert_ops

Nodes = NDArray[np.int64]

_UNITS = {Kind.F: 1, Kind.I: 1, Kind.W: 1, Kind.B: 2, Kind.RECOMPUTE: 1}


def insert_exchanges(program: Program, pairs: bool = False) -> Program:
    """The program with a SEND and a RECV for every transfer between ranks.

    ``pairs``: a forward and the backward after it are followed by one exchange. Where this would let ranks wait in
    a circle, there is one after each.
    """
    graph = connect(program)
    end = earliest_ends(graph, _unit_durations(graph))
    if pairs:
        together = _inserted(program, graph, None)
        if bool((earliest_ends(connect(together), np.zeros(len(together), np.int64)) != NEVER).all()):
            return together
    return _inserted(program, graph, end)


def _inserted(program: Program, graph: OpGraph, end: NDArray[np.int64] | None) -> Program:
    """Exchanges around single ops, by their estimated ends; or around forwards and backwards together for None."""
    consumer = np.repeat(np.arange(len(graph)), np.diff(graph.dep_starts))
    travels = np.flatnonzero(graph.dep_message != NO_MESSAGE)
    sender, receiver = graph.dep_node[travels].astype(np.int64), consumer[travels]
    sender_of, needed_by = _true_ends(program, sender, receiver, graph.dep_message[travels])
    forward = program.kind[sender_of] == Kind.F
    if end is None:
        first, after = _turns(program)
        send_at, receive_at = after[sender_of], first[needed_by]
    else:
        send_at, receive_at = _after(program, sender_of), _receive_places(program, graph, end, sender_of, needed_by)
    before = np.concatenate([send_at, receive_at])
    kind = np.concatenate([np.where(forward, Kind.SEND_F, Kind.SEND_B), np.where(forward, Kind.RECV_F, Kind.RECV_B)])
    step = np.where(forward, 1, -1)
    stage = np.concatenate([program.stage[sender_of], program.stage[sender_of] + step])
    microbatch = np.tile(program.microbatch[sender_of], 2)
    rank = np.concatenate([program.rank[sender_of], program.rank[needed_by]])
    order = np.lexsort((microbatch, stage, kind, before, rank))
    return insert_ops(
        program,
        before[order],
        kind[order].astype(np.int8),
        stage[order].astype(np.int32),
        microbatch[order],
        rank[order].astype(np.int64),
    )


def _unit_durations(graph: OpGraph) -> NDArray[np.int64]:
    table = np.zeros(len(Kind), np.int64)
    for kind, units in _UNITS.items():
        table[kind] = units
    duration = table[graph.kind]
    first = np.flatnonzero(graph.paired)
    duration[first] += duration[first + 1]
    duration[first + 1] = 0
    return duration


def _true_ends(
    program: Program, sender: NDArray[np.int64], receiver: NDArray[np.int64], boundary: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sender and receiver ops; a pair's first op may wait on behalf of its second."""
    stage = program.stage[receiver]
    wanted = np.where(program.kind[sender] == Kind.F, boundary + 1, boundary)
    other = (stage != wanted) | (program.microbatch[receiver] != program.microbatch[sender])
    return sender, np.where(other, receiver + 1, receiver)


def _after(program: Program, node: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place right after an op, or after the pair that it begins."""
    return node + 1 + program.paired[node]


def _turns(program: Program) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every op, the first op of its turn and the place after the last: a backward joins the forward before it."""
    kind, start = program.kind, np.zeros(len(program) + 1, bool)
    start[program.starts] = True
    inner = np.flatnonzero(~start[:-1])
    previous = kind[inner - 1]
    backward = (kind[inner] == Kind.B) & ((previous == Kind.F) | (previous == Kind.RECOMPUTE))
    start[inner] = ~(backward | ((kind[inner] == Kind.RECOMPUTE) & (previous == Kind.F)))
    turn = np.cumsum(start[:-1]) - 1
    begins = np.flatnonzero(start)
    return begins[turn], begins[turn + 1]


def _receive_places(program: Program, graph: OpGraph, end: Nodes, sender: Nodes, needed_by: Nodes) -> Nodes:
    """After the last op of the receiving rank that starts before the sender ends; before all ops if none does."""
    start, rank = end - _unit_durations(graph), program.rank
    places = np.empty(len(sender), np.int64)
    for r in range(program.ranks):
        mine = np.flatnonzero(rank[needed_by] == r)
        first, last = program.starts[r], program.starts[r + 1]
        places[mine] = first + np.searchsorted(start[first:last], end[sender[mine]], side="left")
    places += np.append(False, program.paired)[places]  # never between the two ops of a pair
    return places
