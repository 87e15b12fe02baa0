"""GPipe: all forwards, then all backwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipesim.ir.op import Kind
from pipesim.ir.program import Program
from pipesim.schedules.base import Schedule, Setting, Theory
from pipesim.schedules.registry import register
from pipesim.schedules.shapes import in_sequence, ops


@register
@dataclass(frozen=True)
class GPipe(Schedule):
    """Every rank runs all its forwards, then all its backwards, in micro-batch order."""

    name: ClassVar[str] = "gpipe"
    citation: ClassVar[str] = "Huang et al., GPipe, NeurIPS 2019, arXiv 1811.06965, section 2.3"
    summary: ClassVar[str] = "all forwards, then all backwards"
    bubble: ClassVar[str] = "(P-1)/(M+P-1)"
    memory: ClassVar[str] = "M on every rank"

    def program(self, setting: Setting) -> Program:
        """F of every micro-batch, then B of every micro-batch."""
        self.check(setting.ranks, setting.microbatches)
        every = np.arange(setting.microbatches, dtype=np.int32)
        columns = [in_sequence(ops(Kind.F, r, every), ops(Kind.B, r, every)) for r in range(setting.ranks)]
        return Program.from_arrays(self.placement(setting.ranks), columns, setting.microbatches)

    def theory(self, setting: Setting) -> Theory:
        """Equal stages and free transfers."""
        p, m = setting.ranks, setting.microbatches
        return Theory(
            source="arXiv 1811.06965 section 2.3; arXiv 2104.04473 section 2.2",
            bubble_fraction=(p - 1) / (m + p - 1),
            peak_in_flight=[m] * p,
        )
