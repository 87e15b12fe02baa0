"""Automatic zero-bubble: the cheapest order of F, I and W found for the costs at hand, within a memory limit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.op import Kind
from pipesim.ir.program import Program
from pipesim.schedules.base import Optimizer, Schedule, Setting, optimizer_option, option, require
from pipesim.schedules.registry import register

if TYPE_CHECKING:
    from pipesim.schedules.weight_filling.bound import Line

_ROUNDING = 1 + 1e-9
"""Room for the rounding of a limit that is meant to hold a whole number of activations."""


@register
@dataclass(frozen=True)
class ZeroBubbleAuto(Schedule):
    """F and I as the memory allows, W where a rank would wait.

    The problem is that of arXiv 2401.10241, section 3 and appendix G; the solution is our own: see
    `pipesim.schedules.weight_filling`. ``memory_limit`` counts what F leaves behind until I, and what of it
    stays until W: rank r never holds more than ``memory_limit`` times P times the activations of its stage.
    1 is the memory that 1F1B needs on rank 0 (ZB-1p), 2 is twice that (ZB-2p); from the paper's appendix B,
    more seldom helps. Where micro-batches are not all alike, both the costs and the limit are those of the mean one:
    the limit is then one on how many are held, not on their bytes.
    """

    name: ClassVar[str] = "zb-auto"
    aliases: ClassVar[tuple[str, ...]] = ("zb-1p", "zb-2p")
    citation: ClassVar[str] = "Qi et al., Zero Bubble Pipeline Parallelism, ICLR 2024, arXiv 2401.10241, section 3"
    summary: ClassVar[str] = "the cheapest order found for given costs within a memory limit"
    requires: ClassVar[str] = "any number of ranks and micro-batches; memory_limit at least 1/P"
    bubble: ClassVar[str] = "no closed form; at limit 1 that of ZB-H1, at limit 2 about none of a rank's span"
    memory: ClassVar[str] = "at most memory_limit P"

    memory_limit: float = option(1.0, "most activations on a rank, in units of P times those of its stage")
    optimizer: Optimizer = optimizer_option()
    objective: Literal["span", "makespan"] = option(
        "span", "what to minimise first: the longest time from a rank's first op to its last, or the step"
    )
    effort: float = option(1.0, "how long to search when no order can be shown to be optimal; 0 searches least")

    def check(self, ranks: int, microbatches: int) -> None:
        """Every rank must be able to hold one micro-batch."""
        least = math.ceil(1e4 / ranks) / 1e4
        require(
            self.memory_limit * ranks * _ROUNDING >= 1,
            f"{self.name}: a memory limit of {self.memory_limit:g} x {ranks} activations does not hold one "
            f"micro-batch; the smallest that does is 1/{ranks}: use {least:g} or more",
        )
        require(self.effort >= 0, f"{self.name}: effort must be at least 0, found {self.effort:g}")

    def program(self, setting: Setting) -> Program:
        """All ranks at once."""
        from pipesim.schedules.weight_filling.search import find_order

        self.check(setting.ranks, setting.microbatches)
        line = self._line(setting)
        span, makespan = line.first, np.zeros_like(line.first)
        first, second = (span, makespan) if self.objective == "span" else (makespan, span)
        kinds = find_order(line, first, second, self.effort)
        return _program(self, kinds, setting)

    @property
    def searched(self) -> bool:
        """Always."""
        return True

    def lower_bound(self, setting: Setting) -> int:
        """A span or makespan, as `objective` says, that no order within the memory limit can beat, in ps."""
        from pipesim.schedules.weight_filling.bound import lower_bound

        line = self._line(setting)
        return lower_bound(line, line.first if self.objective == "span" else np.zeros_like(line.first))

    def _line(self, setting: Setting) -> Line:
        from pipesim.schedules.weight_filling.bound import Line

        costs = setting.costs_for(setting.ranks)
        whole = costs.activations
        return Line(
            forward=costs.forward,
            input_grad=costs.input_grad,
            weight_grad=costs.weight_grad,
            hop=costs.hop,
            first=np.concatenate([[0], np.cumsum(costs.forward[:-1] + costs.hop)]),
            whole=whole,
            part=np.minimum(costs.weight_grad_activations, whole),
            capacity=self.memory_limit * setting.ranks * whole * _ROUNDING,
            microbatches=setting.microbatches,
        )


def _program(schedule: Schedule, kinds: NDArray[np.int8], setting: Setting) -> Program:
    """The program of ``kinds``, shape (P, 3 M), whose micro-batches ascend within each kind."""
    p, m = setting.ranks, setting.microbatches
    microbatch = np.empty(kinds.shape, np.int64)
    for kind in (Kind.F, Kind.I, Kind.W):
        microbatch[kinds == kind] = np.tile(np.arange(m), p)
    columns = [(kinds[r], np.full(3 * m, r), microbatch[r]) for r in range(p)]
    return Program.from_arrays(schedule.placement(p), columns, m)
