"""Is a program one training step? Each op once, on the right rank, and nobody waits for itself.

A program without a flush is one stretch of training: its optimizer steps apply every gradient.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.errors import DeadlockError, ProgramError
from pipesim.ir.graph import OpGraph
from pipesim.ir.op import GRADIENT_KINDS, Kind, Op
from pipesim.ir.program import Program
from pipesim.ir.replay import NEVER, earliest_ends
from pipesim.ir.rules import ROLE_KINDS, RULES
from pipesim.ir.waiting import describe_deadlock

_AROUND = 3


def verify(program: Program) -> None:
    """Check a program of compute ops, and of optimizer steps between them where there is no flush.

    Every (stage, micro-batch) needs one F and either one B or one I and one W, all on the rank that the
    micro-batch's route gives to the stage, no W before its I, and no overlapped pair of which one op needs
    the other. If there are optimizer steps, each is one for a stage and a micro-batch, comes after that
    micro-batch's B or W, and leaves none of the stage's gradients out.

    Raises:
        ProgramError: with the ops around the first offending one.
    """
    _check_range(program)
    _check_ranks(program)
    counts = _counts(program)
    _check_once(program, counts)
    _check_weight_after_input(program)
    _check_pairs(program)
    if program.has_updates:
        _check_updates(program)


def check_progress(graph: OpGraph) -> None:
    """Check that every node can run, whatever the durations.

    Raises:
        DeadlockError: naming what each rank waits for.
    """
    done = earliest_ends(graph, np.zeros(len(graph), np.int64)) != NEVER
    if not done.all():
        raise DeadlockError(describe_deadlock(graph, done))


def _check_range(program: Program) -> None:
    placement = program.placement
    bad = (program.stage < 0) | (program.stage >= placement.stages)
    bad |= (program.microbatch < 0) | (program.microbatch >= program.microbatches)
    bad |= (program.kind > Kind.B) & (program.kind != Kind.OPT)
    if bad.any():
        node = int(np.flatnonzero(bad)[0])
        raise ProgramError(
            f"{_op(program, node)} is outside the step: kinds F I W B (and OPT), stages 0..{placement.stages - 1}, "
            f"micro-batches 0..{program.microbatches - 1}\n{around(program, node)}"
        )


def _check_ranks(program: Program) -> None:
    where = program.placement.rank_of[program.route_of[program.microbatch], program.stage]
    wrong = np.flatnonzero(where != program.rank)
    if len(wrong):
        node = int(wrong[0])
        raise ProgramError(
            f"{_op(program, node)} is on rank {program.rank[node]}, but stage {program.stage[node]} lives on "
            f"rank {where[node]}\n{around(program, node)}"
        )


def _counts(program: Program) -> NDArray[np.int64]:
    """How often each (kind, stage, micro-batch) occurs, shape (4, S, M)."""
    shape = (4, program.placement.stages, program.microbatches)
    compute = program.kind <= Kind.B
    columns = (program.kind.astype(np.int64), program.stage, program.microbatch)
    key = np.ravel_multi_index(tuple(column[compute] for column in columns), shape)
    return np.bincount(key, minlength=int(np.prod(shape))).reshape(shape)


def _check_once(program: Program, counts: NDArray[np.int64]) -> None:
    twice = np.argwhere(counts > 1)
    if len(twice):
        kind, stage, microbatch = (int(x) for x in twice[0])
        times = counts[kind, stage, microbatch]
        same = (program.kind == kind) & (program.stage == stage) & (program.microbatch == microbatch)
        node = int(np.flatnonzero(same)[1])
        raise ProgramError(f"{_op(program, node)} occurs {times} times\n{around(program, node)}")
    forward, inputs, weights, full = counts
    _missing(program, forward == 0, "F", "no forward")
    _missing(program, inputs + full != 1, "B", "needs exactly one B, or one I and one W")
    _missing(program, weights != inputs, "W", "needs one W for its I, and none beside a B")


def _missing(program: Program, bad: NDArray[np.bool_], kind: str, message: str) -> None:
    found = np.argwhere(bad)
    if len(found):
        stage, microbatch = (int(x) for x in found[0])
        more = f" (and {len(found) - 1} more like it)" if len(found) > 1 else ""
        raise ProgramError(
            f"stage {stage}, micro-batch {microbatch}: {message}; look for {stage}{kind}{microbatch}{more}"
            f"{_nearest(program, Kind[kind], stage, microbatch)}"
        )


def _nearest(program: Program, kind: Kind, stage: int, microbatch: int) -> str:
    """The picture of where a missing op should be: around the op of its stage, kind and closest micro-batch."""
    kinds = (Kind.I, Kind.B) if kind == Kind.B else (kind,)
    same = np.flatnonzero((program.stage == stage) & np.isin(program.kind, kinds))
    if not len(same):
        return ""
    closest = same[np.argmin(np.abs(program.microbatch[same] - microbatch))]
    return f"\nthe op most like it is here:\n{around(program, int(closest))}"


def _check_weight_after_input(program: Program) -> None:
    shape = (program.placement.stages, program.microbatches)
    position = np.zeros(shape, np.int64)
    inputs = np.flatnonzero(program.kind == Kind.I)
    weights = np.flatnonzero(program.kind == Kind.W)
    position[program.stage[inputs], program.microbatch[inputs]] = inputs
    early = weights[weights < position[program.stage[weights], program.microbatch[weights]]]
    if len(early):
        node = int(early[0])
        raise ProgramError(f"{_op(program, node)} comes before its I\n{around(program, node)}")


def _check_pairs(program: Program) -> None:
    """The ops of a pair start together, so neither may be what the other waits for."""
    first = np.flatnonzero(program.paired)
    first = first[program.microbatch[first] == program.microbatch[first + 1]]
    for node in first.tolist():
        for consumer, producer in ((node, node + 1), (node + 1, node)):
            if _needs(program, consumer, producer):
                raise ProgramError(
                    f"{_op(program, consumer)} cannot overlap with {_op(program, producer)}, which it needs\n"
                    f"{around(program, node)}"
                )


def _check_updates(program: Program) -> None:
    """Every optimizer step follows the gradient that it is named after; none of its stage's is left out."""
    shape = (program.placement.stages, program.microbatches)
    updates = np.flatnonzero(program.kind == Kind.OPT)
    gradients = np.flatnonzero(np.isin(program.kind, GRADIENT_KINDS))
    complete = np.zeros(shape, np.int64)
    complete[program.stage[gradients], program.microbatch[gradients]] = gradients
    early = updates[updates < complete[program.stage[updates], program.microbatch[updates]]]
    if len(early):
        node = int(early[0])
        raise ProgramError(f"{_op(program, node)} comes before its gradient\n{around(program, node)}")
    key = program.stage[updates].astype(np.int64) * shape[1] + program.microbatch[updates]
    twice = updates[np.setdiff1d(np.arange(len(key)), np.unique(key, return_index=True)[1])]
    if len(twice):
        node = int(twice[0])
        raise ProgramError(f"{_op(program, node)} occurs more than once\n{around(program, node)}")
    _check_all_applied(program, updates, gradients)


def _check_all_applied(program: Program, updates: NDArray[np.int64], gradients: NDArray[np.int64]) -> None:
    rank = program.rank
    last = np.full((program.ranks, program.placement.stages), -1, np.int64)
    last[rank[updates], program.stage[updates]] = updates
    lost = gradients[gradients > last[rank[gradients], program.stage[gradients]]]
    if len(lost):
        node = int(lost[0])
        raise ProgramError(
            f"no optimizer step applies {_op(program, node)}: there is no OPT of stage {program.stage[node]} after it\n"
            f"{around(program, node)}"
        )


def _needs(program: Program, consumer: int, producer: int) -> bool:
    """Whether a rule makes ``consumer`` wait for ``producer``, an op of the same micro-batch."""
    kinds, offset = (program.kind[consumer], program.kind[producer]), program.stage[producer] - program.stage[consumer]
    return any(
        kinds[0] in ROLE_KINDS[rule.consumer] and kinds[1] in ROLE_KINDS[rule.producer] and offset == rule.offset
        for rule in RULES
    )


def around(program: Program, node: int) -> str:
    """The ops around ``node`` on its rank, with ``node`` marked."""
    rank = int(np.searchsorted(program.starts, node, side="right")) - 1
    first, last = int(program.starts[rank]), int(program.starts[rank + 1])
    shown = range(max(first, node - _AROUND), min(last, node + _AROUND + 1))
    tokens = [f">{_op(program, i)}<" if i == node else _op(program, i) for i in shown]
    head = "... " if shown.start > first else ""
    tail = " ..." if shown.stop < last else ""
    return f"  rank {rank}, op {node - first}: {head}{' '.join(tokens)}{tail}"


def _op(program: Program, node: int) -> str:
    return str(Op(int(program.stage[node]), Kind(program.kind[node]), int(program.microbatch[node])))
