"""Chimera: pipelines in both directions over the same ranks, each filling the other's bubbles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.placement import Placement
from pipesim.ir.program import Program
from pipesim.schedules.base import Schedule, Setting, Theory, option, require
from pipesim.schedules.registry import register
from pipesim.schedules.slots import Dealt, Integers, SlotRule, by_slot, deal, multiples_near, there_and_back
from pipesim.schedules.sync import Triggers, after_everything, before_next_gap, last_backwards


@register
@dataclass(frozen=True)
class Chimera(Schedule):
    """``pairs`` down pipes and as many up pipes, each with a full copy of the model.

    Down pipe j starts at rank j P / pairs and wraps around, up pipe j is its mirror image. In slots of equal
    length, the m-th micro-batch of any pipe runs F of stage s in slot s + 2 m and B in slot
    2 P - 1 - s + 2 m; that is one unit of P micro-batches. More micro-batches:

    * ``direct``: units follow each other at a distance of 2 P slots, the next one's first forwards between
      the last backwards of the one before. Any number of micro-batches: a last unit that is not full is
      dealt to the pipes evenly (as the paper does with fewer micro-batches than ranks; from memory).
    * ``doubling``: forwards run two micro-batches at a time, backwards one; units of 2 P micro-batches at a
      distance of 3 P slots. Twice the activations, so the authors always recompute with it.
    * ``halving``: the same order for micro-batches of half the size: 2 j and 2 j + 1 are the two halves of
      one forward, so "micro-batch" means a half here, in the count and in the costs. No released code has
      it; the model follows the labels of the paper's figures 17 and 18.

    The order equals that of the authors' generators for one pair (direct, doubling) and of MindSpeed for
    several (direct), op by op.
    """

    name: ClassVar[str] = "chimera"
    citation: ClassVar[str] = (
        "Li and Hoefler, Chimera, SC 2021, arXiv 2107.06925; order as in ParCIS/Chimera, branch ChimeraBk, "
        "and Ascend/MindSpeed:mindspeed/core/pipeline_parallel/chimera"
    )
    summary: ClassVar[str] = "bidirectional pipelines with replicated weights"
    requires: ClassVar[str] = "P even, pairs divides P/2; doubling and halving: one pair, M a multiple of 2P"
    bubble: ClassVar[str] = (
        "published for F = B: (P-2f)/(2fM+P-2f); in general idle = (P/f-2)(F+K(B-F)) per rank, K = M/P, f pairs"
    )
    memory: ClassVar[str] = "P - P/(2f) + 1 to P; doubling and halving: 3P/2 + 1 to 2P"

    pairs: int = option(1, "pairs of down and up pipes; each pair is two more copies of the weights")
    concatenation: Literal["direct", "doubling", "halving"] = option("direct", "how more than P micro-batches run")
    gradient_sync: Literal["end", "eager", "eager-opt"] = option(
        "eager-opt", "reduce replicas' gradients at the end, each stage when idle, or early only where it is free"
    )

    def check(self, ranks: int, microbatches: int) -> None:
        """An even number of ranks, pairs that divide half of it, whole units when doubling or halving."""
        require(
            ranks % 2 == 0,
            f"{self.name}: the number of ranks must be even, found {ranks}: use {multiples_near(ranks, 2)} ranks",
        )
        allowed = [f for f in range(1, ranks // 2 + 1) if ranks // 2 % f == 0]
        require(
            self.pairs in allowed,
            f"{self.name}: pairs must divide half the number of ranks; with {ranks} ranks use one of {allowed}, "
            f"found {self.pairs}",
        )
        if self.concatenation != "direct":
            self._check_doubling(ranks, microbatches)

    def _check_doubling(self, ranks: int, microbatches: int) -> None:
        require(
            self.pairs == 1,
            f"{self.name}: concatenation {self.concatenation!r} is defined for pairs: 1, found {self.pairs}; "
            "several pairs need concatenation 'direct'",
        )
        require(
            microbatches % (2 * ranks) == 0,
            f"{self.name}: concatenation {self.concatenation!r} needs a multiple of 2P = {2 * ranks} micro-batches, "
            f"found {microbatches}: use {multiples_near(microbatches, 2 * ranks)}, or concatenation 'direct'",
        )

    def placement(self, ranks: int) -> Placement:
        """Routes: the down pipes, then the up pipes."""
        stage = np.arange(ranks)
        down = [(j * ranks // self.pairs + stage) % ranks for j in range(self.pairs)]
        return Placement.of(ranks, np.array([*down, *(ranks - 1 - row for row in down)]))

    def routes(self, ranks: int, microbatches: int) -> NDArray[np.int32]:
        """Pipe by pipe within each unit of P micro-batches (of 2 P halves when halving)."""
        return self._dealt(ranks, microbatches).pipe.astype(np.int32)

    def program(self, setting: Setting) -> Program:
        """All ranks at once, sorted by slot."""
        p, m = setting.ranks, setting.microbatches
        self.check(p, m)
        return by_slot(self.placement(p), self.routes(p, m), self._slots(p, m))

    def gradient_triggers(self, program: Program) -> Triggers:
        """Ops after which the reductions of the replicated stages may start, shape (P, S).

        ``eager``: in the first slot in which the rank is idle after the stage's last backward, as the
        authors' ``chimera_pipeline_rank.py`` does. ``eager-opt``: stages above P/2 right after their last
        backward, which leaves the drain to hide them; the others after all work, so that nothing disturbs
        the compute of middle ranks, which have no drain (order of branch ChimeraBk, ``main_with_runtime.py``;
        its scripts for several pairs sync late or cannot run, the rule for one pair is used there too).
        """
        if self.gradient_sync == "end":
            return after_everything(program)
        last = last_backwards(program)
        if self.gradient_sync == "eager":
            return before_next_gap(program, self._slots_of(program), last)
        late_half = np.arange(program.placement.stages) > program.ranks // 2
        return np.where(late_half, last, after_everything(program))

    def theory(self, setting: Setting) -> Theory | None:
        """Equal stages, free transfers, whole units, B >= F.

        The paper's ratio counts F and B as equal slots. With B > F every unit after the first adds idle time
        that it does not have, so the closed forms here, which the replay confirms exactly, are larger; they
        equal the paper's at B = F. See `equal_slot_bubble` for the paper's.
        """
        p, m = setting.ranks, setting.microbatches
        costs = setting.costs_for(p)
        forward = float(costs.forward.mean())
        backward = float(costs.input_grad.mean() + costs.weight_grad.mean())
        if m % p or backward < forward:
            return None
        lost = self._idle(p, m, forward, backward)
        return Theory(
            source="arXiv 2107.06925 tables 2 and 3 at B = F; in general the closed form of the replayed order",
            bubble_fraction=lost / (m * (forward + backward) + lost),
            peak_in_flight=self._peaks(p),
        )

    def _idle(self, ranks: int, microbatches: int, forward: float, backward: float) -> float:
        """Idle time of every rank."""
        if self.concatenation == "direct":
            units = microbatches // ranks
            return (ranks // self.pairs - 2) * (forward + units * (backward - forward))
        units = microbatches // (2 * ranks)
        between_units = (units - 1) * (ranks - 2) * max(0.0, backward - 2 * forward)
        return (ranks // 2 - 1) * (forward + backward) + between_units

    def _peaks(self, ranks: int) -> list[int]:
        ring = ranks // self.pairs
        doubled = 0 if self.concatenation == "direct" else ranks
        return [doubled + ranks - ring // 2 + 1 + min(r % ring, ring - 1 - r % ring) for r in range(ranks)]

    def _dealt(self, ranks: int, microbatches: int) -> Dealt:
        if self.concatenation == "halving":
            return deal(microbatches, 2 * ranks, 2)
        dealt = deal(microbatches, ranks, 2 * self.pairs)
        if self.concatenation == "doubling":
            second = dealt.unit % 2
            return Dealt(dealt.pipe, dealt.local + second * (ranks // 2), dealt.unit // 2)
        return dealt

    def _slots(self, ranks: int, microbatches: int) -> SlotRule:
        dealt = self._dealt(ranks, microbatches)
        doubled = self.concatenation != "direct"

        def slot(kind: Integers, stage: Integers, microbatch: Integers) -> Integers:
            local, unit = dealt.local[microbatch], dealt.unit[microbatch]
            if not doubled:
                return there_and_back(ranks, kind, stage, local, local) + 2 * 2 * ranks * unit
            first_or_second = np.where(kind == 0, local % 2, 0)
            return there_and_back(ranks, kind, stage, local // 2, local) + first_or_second + 2 * 3 * ranks * unit

        return slot

    def _slots_of(self, program: Program) -> Integers:
        """Slot of every op of a program of this schedule, in whole slots."""
        slot = self._slots(program.ranks, program.microbatches)
        columns = (program.kind, program.stage, program.microbatch)
        return slot(*(column.astype(np.int64) for column in columns)) // 2


def equal_slot_bubble(ranks: int, microbatches: int, pairs: int = 1) -> float:
    """The bubble ratio that the paper prints, with F and B as equal slots (arXiv 2107.06925, tables 2 and 3)."""
    lost = ranks - 2 * pairs
    return lost / (2 * pairs * microbatches + lost)
