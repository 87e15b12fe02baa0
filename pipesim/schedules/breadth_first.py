"""Breadth-first pipeline parallelism: every stage runs all micro-batches before the rank moves on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from pipesim.ir.op import Kind
from pipesim.ir.placement import Placement, looped
from pipesim.ir.program import Program
from pipesim.schedules.base import Schedule, Setting, Theory, option, require
from pipesim.schedules.registry import register
from pipesim.schedules.shapes import Ops, in_sequence, ops


@register
@dataclass(frozen=True)
class BreadthFirst(Schedule):
    """All micro-batches through each local stage in turn, forwards up, backwards down.

    The paper's figure and Fast-LLM run backwards in ascending micro-batch order, PyTorch's LoopedBFS in
    descending order; makespan and peak are the same.
    """

    name: ClassVar[str] = "breadth-first"
    aliases: ClassVar[tuple[str, ...]] = ("looped-bfs",)
    citation: ClassVar[str] = "Lamy-Poirier, Breadth-First Pipeline Parallelism, MLSys 2023, arXiv 2211.05953"
    summary: ClassVar[str] = "looped placement, every stage runs all micro-batches in a row"
    requires: ClassVar[str] = "any M; wants M >= P"
    bubble: ClassVar[str] = "(P-1)/(V M + P-1)"
    memory: ClassVar[str] = "M on every rank"

    chunks: int = option(2, "stages per rank")
    backward_order: Literal["ascending", "descending"] = option("ascending", "micro-batch order of the backwards")

    def check(self, ranks: int, microbatches: int) -> None:
        """At least one chunk."""
        require(self.chunks >= 1, f"{self.name}: chunks must be at least 1, found {self.chunks}")

    def placement(self, ranks: int) -> Placement:
        """Stage s on rank s mod P."""
        return looped(ranks, self.chunks)

    def chunks_per_rank(self) -> int:
        """As the option says."""
        return self.chunks

    def program(self, setting: Setting) -> Program:
        """All ranks, as arrays."""
        p, m = setting.ranks, setting.microbatches
        self.check(p, m)
        columns = [self._rank_ops(np.arange(r, p * self.chunks, p), m) for r in range(p)]
        return Program.from_arrays(self.placement(p), columns, m)

    def _rank_ops(self, stages: np.ndarray, microbatches: int) -> Ops:
        every = np.arange(microbatches, dtype=np.int32)
        back = every if self.backward_order == "ascending" else every[::-1]
        forwards = [ops(Kind.F, s, every) for s in stages]
        backwards = [ops(Kind.B, s, back) for s in stages[::-1]]
        return in_sequence(*forwards, *backwards)

    def theory(self, setting: Setting) -> Theory | None:
        """Equal stages and free transfers; without spare micro-batches (M < P) ranks idle between loops."""
        p, m, v = setting.ranks, setting.microbatches, self.chunks
        if m < p and v > 1:
            return None
        return Theory(
            source="arXiv 2211.05953 (schedule figure); closed form as for interleaving, arXiv 2104.04473 section 2.2",
            bubble_fraction=(p - 1) / (v * m + p - 1),
            peak_in_flight=[m] * p,
        )
