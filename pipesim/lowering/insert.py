"""Passes that add ops to the ranks' own queues: recomputation before backwards, the optimizer at the
end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.op import BACKWARD_KINDS, Kind
from pipesim.ir.program import NO_STAGE, Program


def insert_recompute(program: Program, recompute_s: NDArray[np.float64]) -> Program:
    """A RECOMPUTE right before every backward of the stages whose ``recompute_s`` (S,) is positive.

    Before an overlapped pair when the backward is part of one: a pair is not split.
    """
    backward = np.isin(program.kind, BACKWARD_KINDS) & (recompute_s[program.stage] > 0)
    nodes = np.flatnonzero(backward)
    second = np.zeros(len(program), bool)
    second[1:] = program.paired[:-1]
    return insert_ops(program, nodes - second[nodes], Kind.RECOMPUTE, program.stage[nodes], program.microbatch[nodes])


def insert_reconstruct(program: Program, stages: NDArray[np.bool_]) -> Program:
    """A RECONSTRUCT right before every backward of the chosen stages, shape (S,); pairs are not split."""
    nodes = np.flatnonzero(np.isin(program.kind, BACKWARD_KINDS) & stages[program.stage])
    second = np.zeros(len(program), bool)
    second[1:] = program.paired[:-1]
    return insert_ops(program, nodes - second[nodes], Kind.RECONSTRUCT, program.stage[nodes], program.microbatch[nodes])


def append_optimizer(program: Program) -> Program:
    """One OPT at the end of every rank."""
    whole_rank = np.full(program.ranks, NO_STAGE, np.int32)
    return insert_ops(program, program.starts[1:], Kind.OPT, whole_rank, whole_rank, np.arange(program.ranks))


def insert_ops(
    program: Program,
    before: NDArray[np.int64],
    kind: Kind | NDArray[np.int8],
    stage: NDArray[np.int32],
    microbatch: NDArray[np.int32],
    rank: NDArray[np.int64] | None = None,
) -> Program:
    """New ops in front of the given positions, on the ranks that own these unless ``rank`` says otherwise."""
    if len(before) == 0:
        return program
    owner = rank if rank is not None else np.searchsorted(program.starts, before, side="right") - 1
    added = np.bincount(owner, minlength=program.ranks)
    return replace(
        program,
        starts=program.starts + np.concatenate([[0], np.cumsum(added)]),
        kind=np.insert(program.kind, before, np.asarray(kind, np.int8)),
        stage=np.insert(program.stage, before, stage),
        microbatch=np.insert(program.microbatch, before, microbatch),
        paired=np.insert(program.paired, before, False),
    )
