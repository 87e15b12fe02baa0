"""When the reduction of a stage's gradients may be launched on each rank that holds the stage.

Schedules say it as data, lowering turns it into collectives. A trigger is the position, in the program's
arrays, of the op after whose end the reduction may start on that rank.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.op import Kind
from pipesim.ir.program import Program

NOT_HELD = -1
"""Trigger of a stage on a rank that does not hold its weights."""

Triggers = NDArray[np.int64]


def last_backwards(program: Program) -> Triggers:
    """The last op that adds to the stage's gradient on the rank: its last B or W, shape (P, S).

    A replica that no micro-batch passes has nothing to wait for: its trigger is the rank's first op.
    """
    held = program.placement.holds & (np.diff(program.starts) > 0)[:, None]
    triggers = np.where(held, program.starts[:-1, None], NOT_HELD)
    nodes = np.flatnonzero(np.isin(program.kind, (Kind.W, Kind.B)))
    triggers[program.rank[nodes], program.stage[nodes]] = nodes  # in program order: the last one stays
    return np.where(held, triggers, NOT_HELD)


def after_everything(program: Program) -> Triggers:
    """The rank's last op, for every stage that it holds, shape (P, S)."""
    held = program.placement.holds & (np.diff(program.starts) > 0)[:, None]
    return np.where(held, program.starts[1:, None] - 1, NOT_HELD)


def before_next_gap(program: Program, slot: NDArray[np.int64], triggers: Triggers) -> Triggers:
    """Put triggers off until the rank has an idle slot, or nothing more to do.

    ``slot`` is the slot of every op of the program, on the grid that the schedule is drawn on.
    """
    gap = np.ones(len(slot), bool)
    gap[:-1] = slot[1:] > slot[:-1] + 1
    gap[program.starts[1:] - 1] = True
    here = np.arange(len(slot))
    next_gap = np.minimum.accumulate(np.where(gap, here, len(slot))[::-1])[::-1]
    return np.where(triggers == NOT_HELD, NOT_HELD, next_gap[triggers])
