"""Hanayo: wave-like pipelining, Chimera's interplay of directions with one copy of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipesim.ir.placement import Placement, zigzag
from pipesim.ir.program import Program
from pipesim.schedules.base import Schedule, Setting, Theory, option, require
from pipesim.schedules.registry import register
from pipesim.schedules.slots import Integers, SlotRule, by_slot, there_and_back


@register
@dataclass(frozen=True)
class Hanayo(Schedule):
    """Stages in zigzag, ``waves`` times down the ranks and back up; units of P micro-batches.

    On the grid of equal slots, micro-batch m of its unit runs F of stage s in slot s + 2 m and B in slot
    2 S - 1 - s + 2 m, with S = 2 P waves stages; units follow at a distance of 2 S slots. No two ops meet in
    a slot, for any number of micro-batches; a last unit may have fewer than P.

    Where it comes from: the paper's text was at hand only as an abstract, so this order is derived, not
    copied. What ties it down: one wave is exactly BitPipe's down pipe alone (the panel of BitPipe's README
    figure: P = 4, 2 micro-batches, makespan 28 for F = 1, B = 2 per chunk), and exactly the first half of
    Chimera's ranks on 2 P ranks with each down micro-batch and its mirror image made one, which agrees with
    the claim that it needs no second copy of the weights for Chimera's efficiency. The paper's order for
    more than P micro-batches may differ.
    """

    name: ClassVar[str] = "hanayo"
    citation: ClassVar[str] = (
        "Liu et al., Hanayo, SC 2023, arXiv 2308.15762; order derived from Chimera's grid and BitPipe's down pipe"
    )
    summary: ClassVar[str] = "wave-like: stages in zigzag over the ranks, one copy of the weights"
    bubble: ClassVar[str] = "(P-1)/(2 W M + P-1) at B = F; idle = (2P-2)(F+K(B-F)) with F and B of one chunk, K = M/P"
    memory: ClassVar[str] = "P - (P-1-r)/(2W) on rank r"

    waves: int = option(1, "times that the stages go down the ranks and back up; 2 waves chunks per rank")

    def check(self, ranks: int, microbatches: int) -> None:
        """At least one wave."""
        require(self.waves >= 1, f"{self.name}: waves must be at least 1, found {self.waves}")

    def placement(self, ranks: int) -> Placement:
        """Down and up the ranks, ``waves`` times."""
        return zigzag(ranks, 2 * self.waves)

    def chunks_per_rank(self) -> int:
        """Two per wave."""
        return 2 * self.waves

    def program(self, setting: Setting) -> Program:
        """All ranks at once, sorted by slot."""
        p, m = setting.ranks, setting.microbatches
        self.check(p, m)
        return by_slot(self.placement(p), self.routes(p, m), self._slots(p))

    def theory(self, setting: Setting) -> Theory | None:
        """Equal stages, free transfers, whole units, B >= F; closed form of the replayed order."""
        p, m = setting.ranks, setting.microbatches
        stages = 2 * p * self.waves
        costs = setting.costs_for(stages)
        forward = float(costs.forward.mean())
        backward = float(costs.input_grad.mean() + costs.weight_grad.mean())
        if m % p or backward < forward:
            return None
        idle = (2 * p - 2) * (forward + m // p * (backward - forward))
        return Theory(
            source="closed form of the replayed order; as Chimera's with 2 P ranks, arXiv 2107.06925 table 2",
            bubble_fraction=idle / (2 * self.waves * m * (forward + backward) + idle),
            peak_in_flight=[(stages - p + 1 + r) / (2 * self.waves) for r in range(p)],
        )

    def _slots(self, ranks: int) -> SlotRule:
        stages = 2 * ranks * self.waves

        def slot(kind: Integers, stage: Integers, microbatch: Integers) -> Integers:
            unit, local = microbatch // ranks, microbatch % ranks
            return there_and_back(stages, kind, stage, local, local) + 2 * 2 * stages * unit

        return slot
