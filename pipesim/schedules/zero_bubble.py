"""ZB-H1 and ZB-H2: 1F1B with split backwards, whose weight gradients are put off by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipesim.ir.op import Kind
from pipesim.ir.program import Program
from pipesim.schedules.base import Optimizer, Schedule, Setting, Theory, optimizer_option
from pipesim.schedules.registry import register
from pipesim.schedules.shapes import Ops, in_sequence, ops

_SOURCE = "arXiv 2401.10241, Table 2"


@dataclass(frozen=True)
class HandmadeZeroBubble(Schedule):
    """Rank r starts with ``depth`` (P-1-r) forwards, and runs its W ``depth`` r micro-batches late.

    Every rank then holds equally many micro-batches between F and W.
    """

    citation: ClassVar[str] = (
        "Qi et al., Zero Bubble Pipeline Parallelism, ICLR 2024, arXiv 2401.10241, section 2 and Table 2; order as "
        "in Figure 3 and sail-sg/zero-bubble-pipeline-parallelism@arxiv:megatron/core/pipeline_parallel/efficiency.py"
    )
    depth: ClassVar[int] = 0
    """How many forwards a rank is ahead of the next one in its warm-up."""

    optimizer: Optimizer = optimizer_option()

    def program(self, setting: Setting) -> Program:
        """All ranks, as arrays."""
        p, m = setting.ranks, setting.microbatches
        self.check(p, m)
        columns = [_rank_ops(r, m, warmup=self.depth * (p - 1 - r), delay=self.depth * r) for r in range(p)]
        return Program.from_arrays(self.placement(p), columns, m)


@register
@dataclass(frozen=True)
class ZeroBubbleH1(HandmadeZeroBubble):
    """The memory of 1F1B on rank 0, and a third of its bubble when F, I and W take equally long."""

    name: ClassVar[str] = "zb-h1"
    summary: ClassVar[str] = "1F1B with late weight gradients, in the memory of 1F1B"
    bubble: ClassVar[str] = "(P-1)(F+I-W)"
    memory: ClassVar[str] = "min(P, M) on every rank"
    depth: ClassVar[int] = 1

    def theory(self, setting: Setting) -> Theory | None:
        """Equal stages and free transfers, W at most I. For M <= P the rank waits for more than Table 2 says.

        Few micro-batches: arXiv 2401.10241, appendix H.
        """
        p, m = setting.ranks, setting.microbatches
        f, i, w = _mean_times(setting)
        if w > min(f, i):
            return None
        makespan = m * (f + i + w) + (p - 1) * (f + i - w) if m >= p else (m + p - 1) * (f + i) + w
        return Theory(_SOURCE, bubble_fraction=1 - m * (f + i + w) / makespan, peak_in_flight=[min(p, m)] * p)


@register
@dataclass(frozen=True)
class ZeroBubbleH2(HandmadeZeroBubble):
    """No rank waits between its first and its last op when F, I and W take equally long; twice the memory.

    The ranks still start one after another, so that the step gains from this only with the post-validated
    optimizer: the next step can then begin on rank 0 while the last rank finishes.
    """

    name: ClassVar[str] = "zb-h2"
    summary: ClassVar[str] = "no bubble inside a rank's span, in twice the memory of 1F1B"
    requires: ClassVar[str] = "any M; wants M >= 2P-1"
    bubble: ClassVar[str] = "(P-1)(F+I-2W) of a rank's span; (P-1) max(F, F+I-2W) of the step"
    memory: ClassVar[str] = "min(2P-1, M) on every rank"
    depth: ClassVar[int] = 2

    def theory(self, setting: Setting) -> Theory | None:
        """Equal stages, free transfers, F <= I, W <= I and M >= 2P-1.

        Table 2 speaks of the span. The last rank starts P-1 forwards late, which bounds the step from below.
        """
        p, m = setting.ranks, setting.microbatches
        f, i, w = _mean_times(setting)
        if m < 2 * p - 1 or w > min(f, i):
            return None
        idle = (p - 1) * (f + max(0.0, i - 2 * w))
        return Theory(_SOURCE, bubble_fraction=idle / (m * (f + i + w) + idle), peak_in_flight=[2 * p - 1] * p)


def _mean_times(setting: Setting) -> tuple[float, float, float]:
    costs = setting.costs_for(setting.ranks)
    return float(costs.forward.mean()), float(costs.input_grad.mean()), float(costs.weight_grad.mean())


def _rank_ops(rank: int, microbatches: int, warmup: int, delay: int) -> Ops:
    """After the warm-up, turns of one F, one I and one W; F leads I by ``warmup`` turns, W lags by ``delay``."""
    every = np.arange(microbatches)
    unordered = in_sequence(*(ops(kind, rank, every) for kind in (Kind.F, Kind.I, Kind.W)))
    turn = np.concatenate([every - warmup, every, every + delay])
    order = np.lexsort((unordered.kind, turn))
    return Ops(*(column[order] for column in unordered))
