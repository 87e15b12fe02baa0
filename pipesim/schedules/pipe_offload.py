"""PipeOffload: generalised interleaving one micro-batch at a time, so that what lives long can leave for the host.

The order is that of groups of one micro-batch: every chunk's share of the peak is then proportional to how long it
lives, and offloading the chunks that live longest saves more than their share. Where copies go is decided when the
program is lowered (`pipesim.lowering.offload`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from pipesim.ir.offloading import Offloading
from pipesim.ir.placement import Placement, looped
from pipesim.ir.program import Program
from pipesim.schedules.base import Optimizer, Schedule, Setting, Theory, optimizer_option, option, require
from pipesim.schedules.grouped_interleaved import (
    CITATION,
    COPIES_HELP,
    OVERLOAD_HELP,
    Copies,
    Offload,
    Overload,
    check_offload,
    offloading_of,
    rank_order,
)
from pipesim.schedules.registry import register


@register
@dataclass(frozen=True)
class PipeOffload(Schedule):
    """Interleaved micro-batch by micro-batch, with half (PO-H), all (PO-F) or any share of the activations offloaded.

    With ``offload: none`` it needs more memory and idles longer than GIS-H: it is worth its bubble by what it lets go.
    """

    name: ClassVar[str] = "pipe-offload"
    citation: ClassVar[str] = CITATION
    summary: ClassVar[str] = "interleaving with activations in host memory: a quarter of the peak, or a few chunks"
    requires: ClassVar[str] = "any number of ranks and micro-batches; copies no slower than compute"
    bubble: ClassVar[str] = "less than V (P-1)(F+I+W), of chunks"
    memory: ClassVar[str] = "about (V+2)/(8V) of 1F1B's with half of the chunks offloaded, a few chunks with all"

    chunks: int = option(2, "stages per rank")
    offload: Offload = option("half", "activations that go to host memory: none, half of the chunks, full, or a share")
    copies: Copies = option("packed", COPIES_HELP)
    overload: Overload = option("refuse", OVERLOAD_HELP)
    optimizer: Optimizer = optimizer_option()

    def check(self, ranks: int, microbatches: int) -> None:
        """At least one chunk, and a share that is one."""
        require(self.chunks >= 1, f"{self.name}: chunks must be at least 1, found {self.chunks}")
        check_offload(self.name, self.offload)

    def placement(self, ranks: int) -> Placement:
        """Stage s on rank s mod P."""
        return looped(ranks, self.chunks)

    def chunks_per_rank(self) -> int:
        """As the option says."""
        return self.chunks

    @property
    def offloading(self) -> Offloading | None:
        """Half means ceil(V/2) of the V chunks."""
        return offloading_of(self)

    def program(self, setting: Setting) -> Program:
        """All ranks, as arrays."""
        p, m = setting.ranks, setting.microbatches
        self.check(p, m)
        columns = [rank_order(r, p, m, self.chunks, group=1) for r in range(p)]
        return Program.from_arrays(self.placement(p), columns, m)

    def theory(self, setting: Setting) -> Theory | None:
        """Activations between F and the end of W, on the host or not, for M >= P + 2; no bubble is published.

        GIS-H's formula, g (V-1) + P - r with g = ceil(P/2), and one more for every round of the chunks in which
        chunks g slots apart would fall on one that is taken.
        """
        p, m, v = setting.ranks, setting.microbatches, self.chunks
        half = math.ceil(p / 2)
        if m < p + 2:
            return None
        rounds = (v - 1) // (v // math.gcd(v, half))
        return Theory(
            source="arXiv 2503.01328, Table 1 and the block of its released scheduler",
            peak_in_flight=[(half * (v - 1) + rounds + p - r) / v for r in range(p)],
        )
