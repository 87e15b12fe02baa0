"""1F1B, also known as DAPPLE or PipeDream-Flush: as few micro-batches in flight as a flush allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipesim.ir.op import Kind
from pipesim.ir.program import Program
from pipesim.schedules.base import Schedule, Setting, Theory
from pipesim.schedules.registry import register
from pipesim.schedules.shapes import ops, warmup_steady_drain


@register
@dataclass(frozen=True)
class OneFOneB(Schedule):
    """Rank r runs P-1-r forwards, then one forward and one backward in turn, then drains."""

    name: ClassVar[str] = "1f1b"
    aliases: ClassVar[tuple[str, ...]] = ("dapple",)
    citation: ClassVar[str] = (
        "Fan et al., DAPPLE, PPoPP 2021, arXiv 2007.01045; Narayanan et al., SC 2021, arXiv 2104.04473, section 2.2"
    )
    summary: ClassVar[str] = "one forward and one backward in turn after a short warm-up"
    bubble: ClassVar[str] = "(P-1)/(M+P-1)"
    memory: ClassVar[str] = "min(P-r, M) on rank r"

    def program(self, setting: Setting) -> Program:
        """All ranks, as arrays."""
        self.check(setting.ranks, setting.microbatches)
        every = np.arange(setting.microbatches, dtype=np.int32)
        columns = [
            warmup_steady_drain(ops(Kind.F, r, every), ops(Kind.B, r, every), setting.ranks - 1 - r)
            for r in range(setting.ranks)
        ]
        return Program.from_arrays(self.placement(setting.ranks), columns, setting.microbatches)

    def theory(self, setting: Setting) -> Theory:
        """Equal stages and free transfers."""
        p, m = setting.ranks, setting.microbatches
        return Theory(
            source="arXiv 2104.04473 section 2.2",
            bubble_fraction=(p - 1) / (m + p - 1),
            peak_in_flight=[min(p - r, m) for r in range(p)],
        )
