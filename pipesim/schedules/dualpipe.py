"""DualPipe and DualPipeV: two streams of micro-batches meet, and a forward of one hides a backward of the other.

Both run the same eight steps; they differ in what the two streams are. In DualPipe they enter the pipeline
at its two ends, so every rank keeps two stages' weights. In DualPipeV one stream goes down the V and comes
up again, and the two are a rank's two chunks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.op import Kind
from pipesim.ir.placement import Placement, vee
from pipesim.ir.program import Program
from pipesim.schedules.base import Optimizer, Schedule, Setting, Theory, optimizer_option, require
from pipesim.schedules.registry import register
from pipesim.schedules.shapes import Ops
from pipesim.schedules.slots import multiples_near

SOURCE = "deepseek-ai/DualPipe:README.md, table of bubbles and memory"


Cells = NDArray[np.int64]
"""Rows of `Cell`."""


class Cell(NamedTuple):
    """One op of a pattern: its kind, its stream, and whether it overlaps with the cell that follows."""

    kind: Kind
    stream: int
    paired: bool = False


F0, F1 = Cell(Kind.F, 0), Cell(Kind.F, 1)
B0, B1 = Cell(Kind.B, 0), Cell(Kind.B, 1)
I0, I1 = Cell(Kind.I, 0), Cell(Kind.I, 1)
W = Cell(Kind.W, 0)
F0_B1 = [Cell(Kind.F, 0, paired=True), B1]
F1_B0 = [Cell(Kind.F, 1, paired=True), B0]


def eight_steps(inner: int, outer: int, count: int) -> Cells:
    """The order of one rank, ``inner`` ranks away from where the streams turn or cross; shape (ops, 3).

    ``outer`` is its position counted from the end where stream 0 enters, from 1; ``count`` the micro-batches
    of each stream, at least 2 (inner + outer). Weight gradients run in the order of their I.
    """
    overlapped = count - 2 * inner - outer
    first_pair = F0_B1 if inner else [F0, B1]  # where the streams meet, nothing can hide the first backward yet
    drain = [(B1, I1), (B0, I0)] * outer
    steps = [
        ([F0], 2 * inner),
        ([F0, F1], outer),
        ([I1, W, F1], inner),
        ([*first_pair, *F1_B0], 1),
        ([*F0_B1, *F1_B0], overlapped - 1),
        ([B1, *F1_B0], inner),
        ([full for full, _ in drain[:outer]], 1),
        ([split for _, split in drain[outer:]], 1),
        ([W, I0], inner),
        ([W], outer),
    ]
    return np.concatenate([np.tile(np.array(cells, np.int64), (times, 1)) for cells, times in steps])


class Numbered(NamedTuple):
    """A rank's pattern as arrays: micro-batches are counted from 0 in each stream."""

    kind: NDArray[np.int64]
    stream: NDArray[np.int64]
    microbatch: NDArray[np.int64]
    paired: NDArray[np.bool_]


def number(cells: Cells) -> Numbered:
    """Give every cell its micro-batch: each stream in order, and every W the micro-batch and stream of its I."""
    kind, stream, paired = cells[:, 0], cells[:, 1].copy(), cells[:, 2].astype(bool)
    microbatch = np.zeros(len(cells), np.int64)
    for kinds in ((Kind.F,), (Kind.I, Kind.B)):
        for s in (0, 1):
            mine = np.flatnonzero(np.isin(kind, kinds) & (stream == s))
            microbatch[mine] = np.arange(len(mine))
    inputs, weights = np.flatnonzero(kind == Kind.I), np.flatnonzero(kind == Kind.W)
    stream[weights], microbatch[weights] = stream[inputs], microbatch[inputs]
    return Numbered(kind, stream, microbatch, paired)


@register
@dataclass(frozen=True)
class DualPipe(Schedule):
    """The first half of the micro-batches enters at rank 0, the second half at rank P-1.

    DeepSeek's runtime has this op order but hands some results over later than here, where a result leaves as
    its op ends: in its second step, a rank away from the middle sends a forward's output only after the next
    forward. With free transfers and equal durations that delays the last W, the last F and the first pair
    after the weight gradients by one F on those ranks; makespan and idle time are the same.
    """

    name: ClassVar[str] = "dualpipe"
    citation: ClassVar[str] = (
        "DeepSeek-AI, DeepSeek-V3, arXiv 2412.19437, section 3.2.1; order as in "
        "deepseek-ai/DualPipe:dualpipe/dualpipe.py"
    )
    summary: ClassVar[str] = "micro-batches from both ends, forwards overlapped with backwards"
    requires: ClassVar[str] = "P even, M even, M >= 2 P"
    bubble: ClassVar[str] = "(P/2-1) (F&B + B - 3W)"
    memory: ClassVar[str] = "P+1, and two stages' weights"

    optimizer: Optimizer = optimizer_option()

    def check(self, ranks: int, microbatches: int) -> None:
        """Even numbers, and enough micro-batches to fill both directions."""
        require(ranks % 2 == 0, f"{self.name}: P must be even, found {ranks}; use {multiples_near(ranks, 2)} ranks")
        _enough(self.name, ranks, microbatches)
        require(
            microbatches % 2 == 0,
            f"{self.name}: M must be even, found {microbatches}; use {microbatches - 1} or {microbatches + 1}",
        )

    def placement(self, ranks: int) -> Placement:
        """Route 0 down the ranks, route 1 up."""
        down = np.arange(ranks)
        return Placement.of(ranks, [down, down[::-1]])

    def routes(self, ranks: int, microbatches: int) -> NDArray[np.int32]:
        """The second half of the micro-batches goes up."""
        return np.repeat(np.array([0, 1], np.int32), microbatches // 2)

    def program(self, setting: Setting) -> Program:
        """All ranks, as arrays; the two halves of the pipeline mirror each other."""
        p, half = setting.ranks, setting.microbatches // 2
        self.check(p, setting.microbatches)
        patterns = [number(eight_steps(p // 2 - 1 - h, h + 1, half)) for h in range(p // 2)]
        ranks = [patterns[min(r, p - 1 - r)] for r in range(p)]
        columns = []
        for r, pattern in enumerate(ranks):
            route = pattern.stream if r < p // 2 else 1 - pattern.stream
            columns.append(Ops(pattern.kind, np.where(route, p - 1 - r, r), pattern.microbatch + route * half))
        program = Program.from_arrays(
            self.placement(p), columns, setting.microbatches, self.routes(p, setting.microbatches)
        )
        return replace(program, paired=np.concatenate([pattern.paired for pattern in ranks]))

    def theory(self, setting: Setting) -> Theory | None:
        """See `bubble_fraction`; the number of stages is P."""
        p = setting.ranks
        return Theory(SOURCE, bubble_fraction(p, setting.microbatches, 1, setting), peak_in_flight=[p + 1] * p)


@register
@dataclass(frozen=True)
class DualPipeV(Schedule):
    """DualPipe's eight steps on the V placement: half the ranks, each holding both stages that it would mirror.

    The same order as PyTorch's ScheduleDualPipeV; as to when results leave a rank, see `DualPipe`.
    """

    name: ClassVar[str] = "dualpipe-v"
    citation: ClassVar[str] = (
        "Qi et al., cut-in-half DualPipe, hackmd.io/@ufotalent/r1lVXsa9Jg; order as in "
        "deepseek-ai/DualPipe:dualpipe/dualpipev.py and PyTorch's ScheduleDualPipeV"
    )
    summary: ClassVar[str] = "DualPipe folded into a V: no second copy of the weights"
    requires: ClassVar[str] = "M >= 2 P"
    bubble: ClassVar[str] = "(P-1) (F&B + B - 3W), of chunks"
    memory: ClassVar[str] = "(2P+1)/2"

    optimizer: Optimizer = optimizer_option()

    def check(self, ranks: int, microbatches: int) -> None:
        """Enough micro-batches to fill the V."""
        _enough(self.name, ranks, microbatches)

    def placement(self, ranks: int) -> Placement:
        """Stages r and 2P-1-r on rank r."""
        return vee(ranks)

    def chunks_per_rank(self) -> int:
        """Down and up."""
        return 2

    def program(self, setting: Setting) -> Program:
        """All ranks, as arrays."""
        p, m = setting.ranks, setting.microbatches
        self.check(p, m)
        patterns = [number(eight_steps(p - 1 - r, r + 1, m)) for r in range(p)]
        columns = [
            Ops(pattern.kind, np.where(pattern.stream, 2 * p - 1 - r, r), pattern.microbatch)
            for r, pattern in enumerate(patterns)
        ]
        program = Program.from_arrays(self.placement(p), columns, m)
        return replace(program, paired=np.concatenate([pattern.paired for pattern in patterns]))

    def theory(self, setting: Setting) -> Theory | None:
        """See `bubble_fraction`; the number of stages is 2P."""
        p = setting.ranks
        return Theory(SOURCE, bubble_fraction(2 * p, setting.microbatches, 2, setting), peak_in_flight=[p + 0.5] * p)


def published_bubble(stages: int, forward: float, input_grad: float, weight_grad: float) -> float:
    """Idle time per rank as published, in the unit of the three durations of one stage.

    (PP/2-1) (F&B + B - 3W) with a pair that takes as long as its two ops (F&B = F + I + W) and B = I + W;
    the kernel times of deepseek-ai/profile-data:train.json bear out that choice.
    """
    return (stages / 2 - 1) * (forward + 2 * input_grad - weight_grad)


def bubble_fraction(stages: int, microbatches: int, chunks: int, setting: Setting) -> float | None:
    """The published bubble as a fraction, for equal stages and free transfers; None if I is shorter than F or W.

    The formula is exact when F and I take equally long. When I is longer, replays idle less than it says, by
    min(F, (PP/2-1) (I - F)), which is taken into account here; when I is shorter than F or W, they idle more.
    """
    costs = setting.costs_for(stages)
    f, i, w = (float(np.mean(x)) for x in (costs.forward, costs.input_grad, costs.weight_grad))
    if i < max(f, w):
        return None
    idle = published_bubble(stages, f, i, w) - min(f, (stages / 2 - 1) * (i - f))
    return idle / (idle + chunks * microbatches * (f + i + w))


def _enough(name: str, ranks: int, microbatches: int) -> None:
    require(
        microbatches >= 2 * ranks,
        f"{name}: M must be at least 2 P = {2 * ranks}, found {microbatches}; use {2 * ranks} micro-batches or more",
    )
