"""ZB-V: zero bubble in the memory of 1F1B, by folding the pipeline into a V."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pipesim.errors import ScheduleError
from pipesim.ir.placement import Placement, vee
from pipesim.ir.program import Program
from pipesim.schedules import v_journey
from pipesim.schedules.base import Optimizer, Schedule, Setting, Theory, optimizer_option, option, require
from pipesim.schedules.registry import register
from pipesim.schedules.v_journey import Ints


@register
@dataclass(frozen=True)
class ZeroBubbleV(Schedule):
    """Stages r and 2P-1-r on rank r; every rank fills its memory with forwards, and then never waits.

    The automatic order follows the costs of every stage, and keeps the activations of every rank in bytes (a stage
    gives up M_a - M_w after I and M_w after W) within ``memory_limit`` x P x that rank's share of a micro-batch.
    Where stages differ so much that no such order is found, all count as their mean, as in the release, and so they do
    for the limit. The hand-made order is meant for F = I = W.
    """

    name: ClassVar[str] = "zb-v"
    citation: ClassVar[str] = (
        "Qi et al., Zero Bubble Pipeline Parallelism, arXiv 2401.10241v1, section 6; orders as in "
        "sail-sg/zero-bubble-pipeline-parallelism (scheduler/zbv.py, and handcrafted_zb_v.py of zero-bubble-v0.1.0)"
    )
    summary: ClassVar[str] = "V-shaped placement without a bubble within any rank's span, in the memory of 1F1B"
    requires: ClassVar[str] = "any number of ranks and micro-batches; memory_limit at least min(P, M) / P"
    bubble: ClassVar[str] = "(P-1)/(6 M + P-1) for F = I = W and M >= P"
    memory: ClassVar[str] = "min(P, M) on every rank"

    # The option's name is fixed by the config; this schedule writes program(), so nothing calls the method order().
    order: Literal["automatic", "handmade"] = option(  # type: ignore[assignment]
        "automatic", "automatic follows the costs; handmade is the published order for F = I = W"
    )
    memory_limit: float = option(1.0, "activations that a rank may hold, in units of P x its share of a micro-batch")
    optimizer: Optimizer = optimizer_option()

    def check(self, ranks: int, microbatches: int) -> None:
        """Warm-up alone fills min(P, M) micro-batches' shares."""
        least = min(ranks, microbatches) / ranks
        require(
            self.memory_limit >= least * (1 - 1e-5),
            f"{self.name}: with {ranks} ranks and {microbatches} micro-batches, memory_limit must be at least "
            f"{least:g}, found {self.memory_limit:g}; v-adaptive runs in less",
        )

    def placement(self, ranks: int) -> Placement:
        """Stages r and 2P-1-r on rank r."""
        return vee(ranks)

    def chunks_per_rank(self) -> int:
        """Two."""
        return 2

    def program(self, setting: Setting) -> Program:
        """All ranks, as arrays."""
        p, m = setting.ranks, setting.microbatches
        self.check(p, m)
        codes = handmade_order(p, m) if self.order == "handmade" else self._automatic(setting)
        return v_journey.program(codes, m)

    @property
    def searched(self) -> bool:
        """The automatic order is the best of several."""
        return self.order == "automatic"

    def _automatic(self, setting: Setting) -> Ints:
        from pipesim.schedules.zero_bubble_v_auto import Problem, automatic_order

        p, m = setting.ranks, setting.microbatches
        own = setting.costs_for(2 * p)
        for costs in (own, own.averaged()):
            memory = v_journey.memory(costs, p)
            problem = Problem(m, v_journey.durations(costs, p), int(costs.hop), memory, self._limit(memory))
            order = automatic_order(problem)
            if order is not None:
                return order
        raise ScheduleError(
            f"{self.name}: no order found within memory_limit {self.memory_limit:g}; v-adaptive has one"
        )

    def _limit(self, memory: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bytes per rank; a hair more, so that sums of sizes that fill it exactly do not fail by rounding.

        Less than 1F1B's memory passes `check` only when all micro-batches together fit, and then nothing is scarce.
        """
        share: NDArray[np.float64] = memory[:2].sum(axis=0)
        limit: NDArray[np.float64] = share * (max(self.memory_limit, 1.0) * memory.shape[1] * (1 + 1e-9))
        return limit

    def theory(self, setting: Setting) -> Theory | None:
        """F, I, W equal on all stages, free transfers, the memory of 1F1B; M >= P, by hand M >= 2P-1."""
        p, m = setting.ranks, setting.microbatches
        least = p if self.order == "automatic" else 2 * p - 1
        if m < least or self.memory_limit != 1.0 or not v_journey.all_equal(setting):
            return None
        return Theory(
            source="arXiv 2401.10241v1 section 6: no bubble within a rank's span, and spans that start one slot apart",
            bubble_fraction=(p - 1) / (6 * m + p - 1),
            peak_in_flight=[p] * p,
        )


def handmade_order(ranks: int, microbatches: int) -> Ints:
    """The hand-made order as codes, shape (P, 6 M): built for 2P-1 micro-batches at least, surplus ones left out."""
    rows = []
    for rank in range(ranks):
        legs = _handmade_legs(rank, ranks, max(microbatches, 2 * ranks - 1))
        number = v_journey.numbers(legs)
        rows.append((legs * microbatches + number)[number < microbatches])
    return np.stack(rows)


def _handmade_legs(rank: int, ranks: int, microbatches: int) -> Ints:
    """Legs that a rank runs in order, in the hand-made schedule of arXiv 2401.10241v1, section 6.

    Needs at least 2P-1 micro-batches.
    """
    upper, lower = rank, ranks - rank
    unstarted = microbatches - (2 * ranks - 1 - rank)
    steady = microbatches - ranks
    parts = [
        ([0], 2 * lower - 1),
        ([1, 0], upper),
        ([1, 2, 4], lower),
        ([0, 3, 5, 1, 2, 4], unstarted),
        ([3, 5, 1, 2, 4], steady - unstarted),
        ([3, 2], upper),
        ([3, 5], lower),
        ([4], upper),
        ([5], upper),
    ]
    return np.concatenate([np.tile(np.array(legs, np.int64), times) for legs, times in parts])
