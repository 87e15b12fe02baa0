"""BitPipe: two V-shaped interleaved pipelines in opposite directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.op import Kind
from pipesim.ir.placement import Placement, looped, vee
from pipesim.ir.program import Program
from pipesim.schedules.base import Schedule, Setting, Theory, option, require
from pipesim.schedules.registry import register
from pipesim.schedules.slots import Integers, SlotRule, by_slot, deal, multiples_near, there_and_back
from pipesim.schedules.sync import NOT_HELD, Triggers, after_everything


@register
@dataclass(frozen=True)
class BitPipe(Schedule):
    """A down pipe that walks the ranks there and back over 2 P stages, and an up pipe that mirrors it.

    On the grid of equal slots, with P micro-batches per unit, half of them in each direction: micro-batch m
    of its direction runs F of stage s in slot s + 2 m, B in slot 4 P - 1 - s + 2 m; units follow at a
    distance of 4 P slots. That is the released order, op by op.

    ``early_forwarding``: where units meet, the released code alternates a backward of the old unit and a
    forward of the new one. With it, every such forward but the first runs before the backward that it
    otherwise waits behind, which fills the wait for the gradient: min(F, B - F) less idle time per boundary
    for P >= 4, with the same peaks. At P = 4 this is the order of the README's figure; for more ranks the
    makespan at B = 2 F equals that of a backward-first greedy rule that may hold 2 P stages in flight (which
    loses time at B = F, where this does not). How the paper words it is not known here.

    ``placement: loop``: the alternative that the released code has commented out: the down pipe walks the
    ranks twice in the same direction (one more transfer), the same grid.
    """

    name: ClassVar[str] = "bitpipe"
    citation: ClassVar[str] = (
        "Wu et al., BitPipe, 2024, arXiv 2410.19367; order, placement and synchronisation as in "
        "wuhouming/BitPipe:megatron/core/pipeline_parallel/bitpipe_schedule.py"
    )
    summary: ClassVar[str] = "two V-shaped interleaved pipelines in opposite directions"
    requires: ClassVar[str] = "P even, M a multiple of P"
    bubble: ClassVar[str] = (
        "idle = (P-2)(F+K(B-F)) per rank with F and B of one chunk, K = M/P; (P-2)/(4M+P-2) at B = F"
    )
    memory: ClassVar[str] = "(3P+2)/4 to P"

    shape: Literal["v", "loop"] = option(
        "v", "how a pipe walks the ranks twice: there and back, or looping", "placement"
    )
    early_forwarding: bool = option(False, "pull the next unit's forwards ahead of backwards that wait")
    pair_sync: Literal["blocking", "asynchronous"] = option(
        "blocking", "whether compute waits for the reduction over a stage's two replicas (the released code does)"
    )

    def check(self, ranks: int, microbatches: int) -> None:
        """An even number of ranks and whole units."""
        require(
            ranks % 2 == 0,
            f"{self.name}: the number of ranks must be even, found {ranks}: use {multiples_near(ranks, 2)} ranks",
        )
        require(
            microbatches % ranks == 0,
            f"{self.name}: the number of micro-batches must be a multiple of P = {ranks}, found {microbatches}: "
            f"use {multiples_near(microbatches, ranks)}",
        )

    def placement(self, ranks: int) -> Placement:
        """Routes: down, up. Every rank holds four stages, each stage lives on ranks r and P-1-r."""
        down = (vee(ranks) if self.shape == "v" else looped(ranks, 2)).rank_of[0]
        return Placement.of(ranks, np.array([down, ranks - 1 - down]))

    def chunks_per_rank(self) -> int:
        """Two per direction."""
        return 2

    def routes(self, ranks: int, microbatches: int) -> NDArray[np.int32]:
        """In each unit of P micro-batches the first half goes down, the second up."""
        return deal(microbatches, ranks, 2).pipe.astype(np.int32)

    def program(self, setting: Setting) -> Program:
        """All ranks at once, sorted by slot."""
        p, m = setting.ranks, setting.microbatches
        self.check(p, m)
        return by_slot(self.placement(p), self.routes(p, m), self._slots(p, m))

    def gradient_triggers(self, program: Program) -> Triggers:
        """Ops after which the reductions over each stage's two replicas may start, shape (P, S).

        The two middle ranks reduce after their last backward; all others reduce the stages of the second
        half of the model right before their last backward, and the rest after it (as released).
        """
        last = after_everything(program)
        rank, stage = np.indices(last.shape)
        middle = np.isin(rank, (program.ranks // 2 - 1, program.ranks // 2))
        before_last = ~middle & (stage >= program.ranks) & (last != NOT_HELD)
        return np.where(before_last, last - 1, last)

    @property
    def blocking_reductions(self) -> bool:
        """Whether a rank's compute waits while it reduces gradients."""
        return self.pair_sync == "blocking"

    def theory(self, setting: Setting) -> Theory | None:
        """Equal stages, free transfers, B >= F; closed forms of the replayed order, both placements."""
        p, m = setting.ranks, setting.microbatches
        costs = setting.costs_for(2 * p)
        forward = float(costs.forward.mean())
        backward = float(costs.input_grad.mean() + costs.weight_grad.mean())
        if backward < forward:
            return None
        units = m // p
        idle = (p - 2) * (forward + units * (backward - forward))
        if self.early_forwarding and p > 2:
            idle -= (units - 1) * min(forward, backward - forward)
        return Theory(
            source="closed form of the replayed order; the abstract of arXiv 2410.19367 has no formula",
            bubble_fraction=idle / (2 * m * (forward + backward) + idle),
            peak_in_flight=[stages / 2 for stages in self._peaks(p)],
        )

    def _peaks(self, ranks: int) -> list[int]:
        """Stages in flight on every rank."""
        return [3 * ranks // 2 + 1 + min(r, ranks - 1 - r) for r in range(ranks)]

    def _slots(self, ranks: int, microbatches: int) -> SlotRule:
        dealt = deal(microbatches, ranks, 2)

        def slot(kind: Integers, stage: Integers, microbatch: Integers) -> Integers:
            local, unit = dealt.local[microbatch], dealt.unit[microbatch]
            slots = there_and_back(2 * ranks, kind, stage, local, local) + 2 * 4 * ranks * unit
            if not self.early_forwarding:
                return slots
            between_backwards: NDArray[np.bool_] = (
                (kind == Kind.F) & (unit > 0) & (local > 0) & (local < ranks // 2 - stage)
            )
            # from one slot after a backward to half a slot before it
            return np.where(between_backwards, slots - 3, slots)

        return slot
