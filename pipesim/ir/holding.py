"""How many micro-batches' activations a rank holds of each of its stages, at the moments when that is most.

From F's start until I's (or B's) end a micro-batch is held whole, from then until W's end the part that W needs. Which
moment is the fullest depends on how large a stage's activations and that part are, so all moments are kept that no
other one exceeds in every count.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.op import Kind
from pipesim.ir.program import Program

Counts = NDArray[np.int64]


class Held(NamedTuple):
    """Counts at the fullest moments of a rank, both (V, c): of each of its ``stages`` (c,), in model order."""

    stages: Counts
    whole: Counts
    late: Counts


def fullest(program: Program) -> list[Held]:
    """What every rank holds at its fullest moments; a pair takes at its start and gives at its end."""
    return [_of_rank(program, rank) for rank in range(program.ranks)]


def _of_rank(program: Program, rank: int) -> Held:
    mine = slice(int(program.starts[rank]), int(program.starts[rank + 1]))
    kind, paired = program.kind[mine], program.paired[mine]
    stages, column = np.unique(program.stage[mine], return_inverse=True)
    takes, gives = np.zeros((2, len(kind), 2 * len(stages)), np.int64)
    for what, change, start, sign in (
        (Kind.F, takes, 0, 1),
        (Kind.B, gives, 0, 1),
        (Kind.I, gives, 0, 1),
        (Kind.I, gives, len(stages), -1),
        (Kind.W, gives, len(stages), 1),
    ):
        nodes = np.flatnonzero(kind == what)
        change[nodes, start + column[nodes]] = sign
    first = np.flatnonzero(paired)
    takes[first] += takes[first + 1]
    takes[first + 1] = 0
    gives[first + 1] += gives[first]
    gives[first] = 0
    level = np.cumsum(takes - gives, axis=0) + gives
    # Just after an op that leaves W's part behind, what is held may be more than while it ran.
    level = _undominated(np.concatenate([level, level - gives]))
    return Held(stages.astype(np.int64), level[:, : len(stages)], level[:, len(stages) :])


def _undominated(rows: Counts) -> Counts:
    """The different rows that no other row reaches in every column, the largest sums first."""
    kept, left = [], rows
    while len(left):
        top = left[left.sum(axis=1).argmax()]
        kept.append(top)
        left = left[(left > top).any(axis=1)]
    return np.array(kept, np.int64).reshape(-1, rows.shape[1])
