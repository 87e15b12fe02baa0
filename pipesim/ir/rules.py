"""The one table of what must precede what. Verification, lowering and engines all read it.

A rule speaks of roles, because a backward may be one op (B) or two (I and W), and because its gradient
arrives at the recomputation where there is one.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from pipesim.ir.op import Kind


class Role(enum.IntEnum):
    """What an op is to the ops that wait for it or that it waits for."""

    FORWARD = 0
    GRADIENT_IN = 1  # the op at which the gradient from the next stage must have arrived
    GRADIENT_OUT = 2  # the op whose end lets the gradient go to the previous stage
    WEIGHT = 3


class Rule(NamedTuple):
    """``consumer`` of stage s waits for ``producer`` of stage s + ``offset``, for the same micro-batch."""

    consumer: Role
    producer: Role
    offset: int


RULES = (
    Rule(Role.FORWARD, Role.FORWARD, -1),
    Rule(Role.GRADIENT_IN, Role.GRADIENT_OUT, +1),
    Rule(Role.GRADIENT_IN, Role.FORWARD, 0),
    Rule(Role.WEIGHT, Role.GRADIENT_OUT, 0),
)

ROLE_KINDS: dict[Role, tuple[Kind, ...]] = {
    Role.FORWARD: (Kind.F,),
    Role.GRADIENT_IN: (Kind.I, Kind.B),
    Role.GRADIENT_OUT: (Kind.I, Kind.B),
    Role.WEIGHT: (Kind.W,),
}
"""Kinds that play each role; a RECOMPUTE takes over GRADIENT_IN from the backward that follows it."""
