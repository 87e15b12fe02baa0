"""GEMS: two copies of the model in opposite directions, one micro-batch of each at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.op import Kind
from pipesim.ir.placement import Placement
from pipesim.ir.program import Program
from pipesim.schedules.base import Schedule, Setting, Theory
from pipesim.schedules.registry import register
from pipesim.schedules.shapes import Ops


@register
@dataclass(frozen=True)
class Gems(Schedule):
    """Every rank runs F and B of a down micro-batch, F and B of an up one, and so on.

    The up micro-batch's forward follows the down one's backward through the ranks, so that at most two
    micro-batches are under way and a rank never holds more than one: little memory, many bubbles.
    Even micro-batches go down, odd ones up.
    """

    name: ClassVar[str] = "gems"
    citation: ClassVar[str] = (
        "Jain et al., GEMS, SC 2020; order as in ParCIS/Chimera, branch ChimeraBk, main_with_runtime_gems.py"
    )
    summary: ClassVar[str] = "two replicas in opposite directions, one micro-batch of each at a time"
    bubble: ClassVar[str] = "about (P-1)/(P+1/2) for B = 2F; exactly 1 - M(F+B) / (P(F+B) + (M-1)(P B + F))"
    memory: ClassVar[str] = "1 on every rank"

    def placement(self, ranks: int) -> Placement:
        """Routes: down, up."""
        down = np.arange(ranks)
        return Placement.of(ranks, np.array([down, down[::-1]]))

    def routes(self, ranks: int, microbatches: int) -> NDArray[np.int32]:
        """Down and up in turn."""
        return (np.arange(microbatches) % 2).astype(np.int32)

    def program(self, setting: Setting) -> Program:
        """All ranks, as arrays."""
        p, m = setting.ranks, setting.microbatches
        self.check(p, m)
        route = self.routes(p, m)
        return Program.from_arrays(self.placement(p), [_rank_ops(r, p, route) for r in range(p)], m, route)

    def theory(self, setting: Setting) -> Theory | None:
        """Equal stages, free transfers, B >= F.

        For many micro-batches and B = 2F the bubble tends to (P-1)/(P+1/2), which is Chimera's table entry.
        """
        p, m = setting.ranks, setting.microbatches
        costs = setting.costs_for(p)
        forward = float(costs.forward.mean())
        backward = float(costs.input_grad.mean() + costs.weight_grad.mean())
        if backward < forward:
            return None
        makespan = p * (forward + backward) + (m - 1) * (p * backward + forward)
        return Theory(
            source="arXiv 2107.06925 table 2 in the limit of many micro-batches; exact form of the replayed order",
            bubble_fraction=1 - m * (forward + backward) / makespan,
            peak_in_flight=[1] * p,
        )


def _rank_ops(rank: int, ranks: int, route: NDArray[np.int32]) -> Ops:
    """F and B of every micro-batch, on the stage that its direction gives to the rank."""
    count = len(route)
    kind = np.tile([int(Kind.F), int(Kind.B)], count)
    stage = np.where(route == 0, rank, ranks - 1 - rank).astype(np.int64)
    return Ops(kind, np.repeat(stage, 2), np.repeat(np.arange(count), 2))
