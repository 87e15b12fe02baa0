"""Pipelines that never run empty: the optimizer steps between micro-batches, and gradients come late.

A program is a stretch of training that starts and ends with an empty pipeline; in between every stage does one
forward and one backward per clock. Let A be the number of stages after a stage. Running w forwards ahead of the
first backward keeps w + 1 micro-batches in flight, and w optimizer steps of the stage lie between a micro-batch's
forward and its backward. PipeDream takes w = A, the least that keeps all stages busy when transfers are free.
LayerPipe2's retiming gives w = 2 A: one clock to compute and one to move the result, each way.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.op import Kind
from pipesim.ir.placement import Placement, linear
from pipesim.ir.program import Program
from pipesim.ir.updates import WeightPolicy
from pipesim.schedules.base import Schedule, Setting, Theory, option, require
from pipesim.schedules.registry import register
from pipesim.schedules.shapes import Ops, ops, warmup_steady_drain

_NONE = -1


def steady_period(ranks: int, in_flight: int, clock: int, hop: int) -> Fraction:
    """Time per micro-batch once the pipeline is full: max(clock, (P clock + 2 (P - 1) hop) / N).

    ``clock`` is one forward and one backward of a stage, ``in_flight`` the N micro-batches that the first rank
    keeps on their way; all stages are equal. A micro-batch's round trip takes P clocks and 2 (P - 1) hops, and N
    of them share it.
    """
    return max(Fraction(clock), Fraction(ranks * clock + 2 * (ranks - 1) * hop, in_flight))


@dataclass(frozen=True)
class Asynchronous(Schedule):
    """What schedules without a flush share; one stage (or group of layers) per rank."""

    requires: ClassVar[str] = "any number of ranks and micro-batches"
    bubble: ClassVar[str] = "none but while the pipeline fills and drains"
    flush: ClassVar[bool] = False
    source: ClassVar[str] = ""

    def warmup(self, after: int) -> int:
        """Forwards ahead of the first backward, with ``after`` stages behind; delay of the gradient in clocks."""
        return after

    def update_every(self, ranks: int) -> int:
        """Micro-batches per optimizer step."""
        return 1

    def staleness(self, after: int) -> int:
        """Updates between the weights that a micro-batch uses and those to which its gradient is applied."""
        return self.warmup(after)

    def weight_copies(self, after: int) -> int:
        """Copies of a stage's weights, buffers as large as them included."""
        return self.warmup(after) + 1

    def program(self, setting: Setting) -> Program:
        """All ranks, as arrays."""
        self.check(setting.ranks, setting.microbatches)
        placement = self.placement(setting.ranks)
        every, m = self.update_every(setting.ranks), setting.microbatches
        columns = [
            _rank_ops(placement.stages_of(r), m, self.warmup(setting.ranks - 1 - r), every, self.second_engine)
            for r in range(setting.ranks)
        ]
        return Program.from_arrays(placement, columns, m)

    def theory(self, setting: Setting) -> Theory:
        """Any costs: what is in flight follows from the order alone. There is no bubble to speak of."""
        p, m = setting.ranks, setting.microbatches
        return Theory(source=self.source, peak_in_flight=[min(self.warmup(p - 1 - r) + 1, m) for r in range(p)])


@register
@dataclass(frozen=True)
class PipeDream(Asynchronous):
    """One forward and one backward in turn, an optimizer step after each backward, a weight version per micro-batch.

    PipeDream's replicated stages are not modelled: every stage has one rank (or one tensor-parallel group) per
    data-parallel replica.
    """

    name: ClassVar[str] = "pipedream"
    citation: ClassVar[str] = (
        "Narayanan et al., PipeDream, SOSP 2019, arXiv 1806.03377 (1F1B and weight stashing); "
        "msr-fiddle/pipedream:runtime/runtime.py, runtime/optimizer.py"
    )
    summary: ClassVar[str] = "1F1B without a flush: a step per micro-batch, weights stashed until their backward"
    memory: ClassVar[str] = "min(P-r, M) on rank r, and as many versions of its weights"
    source: ClassVar[str] = "arXiv 1806.03377: NOAM; msr-fiddle/pipedream:runtime/runtime.py, num_warmup_minibatches"


@register
@dataclass(frozen=True)
class PipeDream2BW(Asynchronous):
    """PipeDream's order, an optimizer step per group of micro-batches, and two buffers of weights.

    All micro-batches of a group use the version that the group before last left, so that
    W(t+1) = W(t) - lr grad(W(t-1)): a delay of one update on every stage. This needs groups of at least P.
    """

    name: ClassVar[str] = "pipedream-2bw"
    citation: ClassVar[str] = (
        "Narayanan et al., Memory-Efficient Pipeline-Parallel DNN Training, ICML 2021, arXiv 2006.09503 "
        "(double-buffered weight updates); msr-fiddle/pipedream, branch pipedream_2bw"
    )
    summary: ClassVar[str] = "1F1B without a flush: a step per group of micro-batches, two buffers of weights"
    requires: ClassVar[str] = "M a multiple of group, group >= P"
    memory: ClassVar[str] = "min(P-r, M) on rank r, and two versions of its weights"
    source: ClassVar[str] = "arXiv 2006.09503: the order of PipeDream"

    group: int | None = option(None, "micro-batches per optimizer step, at least the number of ranks (the default)")

    @property
    def weight_policy(self) -> WeightPolicy:
        """Two buffers."""
        return WeightPolicy.TWO_BUFFERS

    def update_every(self, ranks: int) -> int:
        """As the option says."""
        return ranks if self.group is None else self.group

    def staleness(self, after: int) -> int:
        """One update, wherever the stage is."""
        return 1

    def weight_copies(self, after: int) -> int:
        """Two, wherever the stage is."""
        return 2

    def check(self, ranks: int, microbatches: int) -> None:
        """The version before the newest must last until its last backward; every gradient must be applied."""
        every = self.update_every(ranks)
        require(every >= ranks, f"{self.name}: group must be at least the number of ranks, {ranks}; found {every}")
        rest = microbatches % every
        near = " or ".join(str(n) for n in (microbatches - rest, microbatches - rest + every) if n)
        require(
            rest == 0,
            f"{self.name} steps once per {every} micro-batches, found {microbatches} micro-batches; use {near}",
        )


@register
@dataclass(frozen=True)
class LayerPipe2(Asynchronous):
    """Twice PipeDream's delay, so that transfers get a clock of their own, without a weight version per clock.

    ``weights`` chooses how a backward gets at its forward's weights: ``average`` recovers them from a moving
    average of the gradients, at one buffer and one pass over the weights per backward; ``stash`` keeps them.
    ``layers`` cuts each rank's group into layers that are ops of their own: gradients of one layer's weights then
    do not wait for those of the layers before it. All layers of a group have the delay of the group.
    ``engines`` = 2 is LayerPipe's split (arXiv 2108.06629): a stage's weight gradient and its gradient for the
    input both need only the gradient that arrives, so they run at the same time on two engines, and the optimizer
    on the second. The next forward waits for the update, so the delay stays.

    The paper studies accuracy on small networks and gives no times; clocks, stash sizes and the throughput law of
    `steady_period` follow from its delays and are derived here.
    """

    name: ClassVar[str] = "layerpipe2"
    citation: ClassVar[str] = (
        "Unnikrishnan and Parhi, LayerPipe, arXiv 2108.06629; LayerPipe2, Asilomar 2025, arXiv 2512.08160 "
        "(Delay(l) = 2 S(l))"
    )
    summary: ClassVar[str] = "no flush, twice PipeDream's delay; weights recovered from a moving average"
    memory: ClassVar[str] = "min(2(P-1-r)+1, M) on rank r; one buffer as large as the weights but on the last rank"
    source: ClassVar[str] = "arXiv 2512.08160: Delay(l) = 2 S(l)"

    weights: Literal["average", "stash"] = option("average", "how a backward gets at the weights of its forward")
    engines: Literal[1, 2] = option(1, "2: weight gradients and optimizer steps run on a second engine of the rank")
    layers: int = option(1, "layers of each rank's group that are ops of their own")

    @property
    def weight_policy(self) -> WeightPolicy:
        """As the option says."""
        return WeightPolicy(self.weights)

    @property
    def second_engine(self) -> bool:
        """As the option says."""
        return self.engines == 2

    def check(self, ranks: int, microbatches: int) -> None:
        """At least one layer in a group."""
        require(self.layers >= 1, f"{self.name}: layers must be at least 1, found {self.layers}")

    def placement(self, ranks: int) -> Placement:
        """Groups of neighbouring layers."""
        return Placement.of(ranks, np.repeat(np.arange(ranks), self.layers)) if self.layers > 1 else linear(ranks)

    def chunks_per_rank(self) -> int:
        """As the option says."""
        return self.layers

    def warmup(self, after: int) -> int:
        """Two clocks per stage behind."""
        return 2 * after

    def weight_copies(self, after: int) -> int:
        """A version per clock of delay, or one buffer where there is a delay."""
        return self.warmup(after) + 1 if self.weights == "stash" else 1 + (after > 0)


def _rank_ops(stages: NDArray[np.int64], microbatches: int, warmup: int, every: int, split: bool) -> Ops:
    """One rank's ops: forwards and backwards of its whole group of stages in turn, each spelled out.

    ``every``: micro-batches per optimizer step, which follows the last backward of each group of micro-batches.
    ``split``: I, W and OPT of each stage instead of B, and then OPT.
    """
    all_of_them = np.arange(microbatches)
    passes = warmup_steady_drain(ops(Kind.F, 0, all_of_them), ops(Kind.B, 0, all_of_them), warmup)
    closes = (passes.kind == Kind.B) & (passes.microbatch % every == every - 1)
    shape = (passes.kind == Kind.B).astype(np.int64) + closes
    kinds, places = _patterns(len(stages), split)
    kind, place = kinds[shape], places[shape]
    used = kind != _NONE
    microbatch = np.broadcast_to(passes.microbatch[:, None], kind.shape)
    return Ops(kind[used], stages[place[used]], microbatch[used])


def _patterns(stages: int, split: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Kinds, and places of the stage within the group, of a forward, a backward, and a backward with an update.

    Each of shape (3, longest), filled up with -1.
    """
    up, down = range(stages), range(stages)[::-1]
    backward = (Kind.I, Kind.W) if split else (Kind.B,)
    forward = [(Kind.F, s) for s in up]
    plain = [(kind, s) for s in down for kind in backward]
    last = [(kind, s) for s in down for kind in (*backward, Kind.OPT)] if split else plain + [(Kind.OPT, s) for s in up]
    table = np.full((3, len(last), 2), _NONE, np.int64)
    for row, pattern in enumerate((forward, plain, last)):
        table[row, : len(pattern)] = pattern
    return table[:, :, 0], table[:, :, 1]
