"""V-Half, V-Min and the adaptive V family: building blocks on a V placement, for less activation memory than 1F1B."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipesim.ir.placement import Placement, vee
from pipesim.ir.program import Program
from pipesim.schedules import v_journey
from pipesim.schedules.base import Optimizer, Schedule, Setting, Theory, optimizer_option, option, require
from pipesim.schedules.registry import register
from pipesim.schedules.v_journey import Ints

if TYPE_CHECKING:
    from pipesim.schedules.v_search import Problem

_CITATION = "Qi, Wan, Amar, Lin, Pipeline Parallelism with Controllable Memory, NeurIPS 2024, arXiv 2405.15362"
_RELEASE = "sail-sg/zero-bubble-pipeline-parallelism"


def _effort_option() -> Any:
    return option(1.0, "how long to search: 2 tries twice as many orders, 0 fewest")


@dataclass(frozen=True)
class _VSchedule(Schedule):
    """What the schedules of this family share: stages r and 2P-1-r on rank r."""

    def placement(self, ranks: int) -> Placement:
        """Stages r and 2P-1-r on rank r."""
        return vee(ranks)

    def chunks_per_rank(self) -> int:
        """Two."""
        return 2

    def order_codes(self, setting: Setting) -> Ints:
        """Codes ``leg M + micro-batch`` of every rank in order, shape (P, 6 M)."""
        raise NotImplementedError

    def program(self, setting: Setting) -> Program:
        """All ranks, as arrays."""
        self.check(setting.ranks, setting.microbatches)
        return v_journey.program(self.order_codes(setting), setting.microbatches)

    def problem(self, setting: Setting, limit: int, effort: float) -> Problem:
        """The search for a good order of at most ``limit`` chunk activations per rank."""
        from pipesim.schedules.v_list import Costs
        from pipesim.schedules.v_search import Problem

        costs = setting.costs_for(2 * setting.ranks)
        table = Costs(v_journey.durations(costs, setting.ranks), int(costs.hop))
        return Problem(table, setting.microbatches, limit, not self.synchronous_optimizer, effort)


@dataclass(frozen=True)
class _PublishedBlock(_VSchedule):
    """A published building block of unit slots, and optionally a better order for the real costs."""

    retime: bool = option(False, "search an order for the real costs within the same peak; never slower")
    effort: float = _effort_option()
    optimizer: Optimizer = optimizer_option()

    @property
    def searched(self) -> bool:
        """The published order is not."""
        return self.retime

    def block(self, ranks: int) -> Ints:
        """Slot of each leg of micro-batch 0 on each rank, shape (4, P)."""
        raise NotImplementedError

    def order_codes(self, setting: Setting) -> Ints:
        """The published order; with ``retime`` the best order found that holds no more than it at its peak."""
        from pipesim.schedules import blocks

        published = blocks.unroll(self.block(setting.ranks), setting.microbatches, v_journey.OPS)
        assert published is not None  # it has no limit to break
        if not self.retime:
            return published
        from pipesim.schedules import v_search

        limit = int(blocks.peak(published, setting.microbatches, True))
        problem = self.problem(setting, limit, self.effort)
        return v_search.best_of(chain([v_search.scored(problem, published)], v_search.list_orders(problem)))


@register
@dataclass(frozen=True)
class VHalf(_PublishedBlock):
    """Half the activations of 1F1B: forwards go down two slots per rank and come up one."""

    name: ClassVar[str] = "v-half"
    citation: ClassVar[str] = f"{_CITATION}; order as in {_RELEASE} (scheduler/zbv_greedy.py)"
    summary: ClassVar[str] = "V-shaped placement with half the activations of 1F1B and about half its bubble"
    bubble: ClassVar[str] = "b/(6M+b) with b = 6P-6 floor((P+2)/2)-1, for F = I = W, P >= 3 and 2M >= 3P"
    memory: ClassVar[str] = "floor((P+2)/2) on every rank"

    def theory(self, setting: Setting) -> Theory | None:
        """The bound of appendix A, reached for F = I = W, free transfers, P >= 3 and 2 M >= 3 P."""
        p, m = setting.ranks, setting.microbatches
        if self.retime or p < 3 or 2 * m < 3 * p or not v_journey.all_equal(setting):
            return None
        held = (p + 2) // 2
        return Theory(
            source="peak: authors' description of V-Half; bubble: lower bound 6P-3k-1 half-slots for k activations",
            bubble_fraction=bubble_fraction(6 * p - 6 * held - 1, m),
            peak_in_flight=[held],
        )

    def block(self, ranks: int) -> Ints:
        """Offsets 2 down and 1 up; for even P the backward waits three slots to fall into free ones."""
        rank = np.arange(ranks)
        wait = 3 if ranks % 2 == 0 else 0
        return np.stack([2 * rank, 3 * ranks - 2 - rank, 3 * ranks + wait + 2 * rank - 1, 6 * ranks + wait - 2 - rank])


@register
@dataclass(frozen=True)
class VMin(_PublishedBlock):
    """A third of the activations of 1F1B: every leg goes one slot per rank."""

    name: ClassVar[str] = "v-min"
    citation: ClassVar[str] = f"{_CITATION}; order as in {_RELEASE} (scheduler/zbv_greedy.py)"
    summary: ClassVar[str] = "V-shaped placement with a third of the activations of 1F1B and two thirds of its bubble"
    bubble: ClassVar[str] = "b/(6M+b) with b = 4P-5, or 4P-7 when 3 divides P, for F = I = W and M >= 2P-1"
    memory: ClassVar[str] = "at most floor((P+4)/3) on every rank"

    def theory(self, setting: Setting) -> Theory | None:
        """F = I = W, free transfers, P >= 2 and M >= 2P-1. The bubble is what replay of the published order shows."""
        p, m = setting.ranks, setting.microbatches
        if self.retime or p < 2 or m < 2 * p - 1 or not v_journey.all_equal(setting):
            return None
        return Theory(
            source="peak: authors' description of V-Min; bubble: replay, the paper has about 4P slots",
            bubble_fraction=bubble_fraction(4 * p - (7 if p % 3 == 0 else 5), m),
            peak_in_flight=[(p + 4) // 3],
        )

    def block(self, ranks: int) -> Ints:
        """Offsets 1 on all legs; for P a multiple of 3 the backward waits two slots to fall into free ones."""
        rank = np.arange(ranks)
        wait = 2 if ranks % 3 == 0 else 0
        return np.stack([rank, 2 * ranks - 1 - rank, 2 * ranks + wait + rank, 4 * ranks + wait - 1 - rank])


@register
@dataclass(frozen=True)
class VAdaptive(_VSchedule):
    """The best order found on the V placement for the given costs, within any limit on activations.

    The limit counts activations of a chunk from F until W: floor(2 P memory_limit) of them on every rank. It goes
    below V-Min's, down to one micro-batch at a time, at the price of a bubble in every micro-batch.
    """

    name: ClassVar[str] = "v-adaptive"
    citation: ClassVar[str] = f"{_CITATION}, section 3 and appendix A; compare {_RELEASE} (v_auto_schedule.py)"
    summary: ClassVar[str] = "V-shaped placement, best order found for the costs within a memory limit"
    requires: ClassVar[str] = "memory_limit at least 1/P"
    bubble: ClassVar[str] = (
        "b/(6M+b) with b = 6P-3k-1, k = 2 P memory_limit from V-Min's to 3P/2, for F = I = W and M >= 2P"
    )
    memory: ClassVar[str] = "at most P memory_limit on every rank"

    memory_limit: float = option(0.5, "activations that a rank may hold, in units of P x its share of a micro-batch")
    effort: float = _effort_option()
    optimizer: Optimizer = optimizer_option()

    def check(self, ranks: int, microbatches: int) -> None:
        """Both chunks of one micro-batch must fit."""
        require(self.effort >= 0, f"{self.name}: effort must be at least 0, found {self.effort:g}")
        require(
            self.limit(ranks) >= 2,
            f"{self.name}: with {ranks} ranks, memory_limit must be at least {1 / ranks:.6g} (both chunks of one "
            f"micro-batch), found {self.memory_limit:g}",
        )

    @property
    def searched(self) -> bool:
        """Always."""
        return True

    def limit(self, ranks: int) -> int:
        """Chunk activations that a rank may hold; a limit like 7/12 must not lose one to rounding."""
        return math.floor(2 * ranks * self.memory_limit * (1 + 1e-9) + 1e-5)

    def order_codes(self, setting: Setting) -> Ints:
        """The best of building blocks and of list schedules; these only where blocks do not reach a known bound."""
        from pipesim.schedules import v_search

        problem = self.problem(setting, self.limit(setting.ranks), self.effort)
        candidates = chain(v_search.block_orders(problem), v_search.list_orders(problem))
        return v_search.best_of(candidates, self._least(setting))

    def theory(self, setting: Setting) -> Theory | None:
        """F = I = W, free transfers, M >= 2P, and a limit from V-Min's to three quarters of 1F1B's memory."""
        p, m = setting.ranks, setting.microbatches
        held = self.limit(p)
        if m < 2 * p or not 4 * ((p + 4) // 3) <= 2 * held <= 3 * p or not v_journey.all_equal(setting):
            return None
        return Theory(
            source="arXiv 2405.15362, appendix: lower bound 6P-3k-1 half-slots for k activations per rank",
            bubble_fraction=bubble_fraction(6 * p - 3 * held - 1, m),
        )

    def _least(self, setting: Setting) -> tuple[int, int]:
        """What no score can be below, in picoseconds; 0 where no bound is known."""
        p, m = setting.ranks, setting.microbatches
        if m < 2 * p or not v_journey.all_equal(setting):
            return 0, 0
        slot = int(setting.costs_for(2 * p).forward[0])
        span = slot * (6 * m + max(6 * p - 3 * self.limit(p) - 1, 0))
        makespan = max(span, slot * (6 * m + p - 1))
        return (makespan, span) if self.synchronous_optimizer else (span, makespan)


def bubble_fraction(bubble: int, microbatches: int) -> float:
    """Share of a makespan of 6 M busy slots and ``bubble`` idle ones."""
    return bubble / (6 * microbatches + bubble)
