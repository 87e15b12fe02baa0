"""Generalised interleaving: 1F1B over several chunks, in groups of micro-batches smaller than Megatron's.

One building block (a group of micro-batches through all chunks) is repeated at its own length; the ops of a
rank run in the order of their slots. Smaller groups hold fewer activations and idle longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.offloading import Offloading
from pipesim.ir.op import Kind
from pipesim.ir.placement import Placement, looped
from pipesim.ir.program import Program
from pipesim.schedules.base import Optimizer, Schedule, Setting, StepCosts, Theory, optimizer_option, option, require
from pipesim.schedules.registry import register
from pipesim.schedules.shapes import Ops

CITATION = (
    "Wan et al., PipeOffload, ICML 2025, arXiv 2503.01328, section 4 and Table 1; order as in sail-sg/"
    "zero-bubble-pipeline-parallelism:megatron/core/pipeline_parallel/zerobubble/scheduler/group_interleaved_1f1b.py"
)
SOURCE = "arXiv 2503.01328, Table 1"

Offload = Literal["none", "half", "full"] | float
"""Which activations go to host memory and back: by name, or a share from 0 to 1."""

Copies = Literal["packed", "alternating"]
"""How copies use a rank's slots on the link: as needed, or every second one for each direction."""

COPIES_HELP = "packed: slots of the link as needed; alternating: one each way in turn, as released"

Overload = Literal["refuse", "wait"]
"""What happens where copies take longer than computing: an error with the numbers, or a longer step."""

OVERLOAD_HELP = "copies that take longer than computing: refuse them, or let the step wait"


@dataclass(frozen=True)
class GroupedInterleaved(Schedule):
    """What both variants share: the options, the placement and the order; each sets its own group size."""

    citation: ClassVar[str] = CITATION
    requires: ClassVar[str] = "any number of ranks and micro-batches; 1 <= group_size <= P"

    chunks: int = option(2, "stages per rank")
    group_size: int | None = option(None, "micro-batches per group, at most P")
    offload: Offload = option("none", "activations that go to host memory: none, half of the chunks, full, or a share")
    copies: Copies = option("packed", COPIES_HELP)
    overload: Overload = option("refuse", OVERLOAD_HELP)
    optimizer: Optimizer = optimizer_option()

    def check(self, ranks: int, microbatches: int) -> None:
        """Groups no larger than P: a larger one would idle between chunks."""
        require(self.chunks >= 1, f"{self.name}: chunks must be at least 1, found {self.chunks}")
        size = self.group_size
        require(
            size is None or 1 <= size <= ranks,
            f"{self.name}: group_size must be between 1 and P = {ranks}, found {size}",
        )
        check_offload(self.name, self.offload)

    @property
    def offloading(self) -> Offloading | None:
        """Half means ceil(V/2) of the V chunks."""
        return offloading_of(self)

    def placement(self, ranks: int) -> Placement:
        """Stage s on rank s mod P."""
        return looped(ranks, self.chunks)

    def chunks_per_rank(self) -> int:
        """As the option says."""
        return self.chunks

    def group(self, setting: Setting) -> int:
        """Micro-batches per group."""
        return self.group_size if self.group_size is not None else self.default_group(setting)

    def default_group(self, setting: Setting) -> int:
        """Micro-batches per group where the option leaves it open."""
        raise NotImplementedError

    def program(self, setting: Setting) -> Program:
        """All ranks, as arrays."""
        p, m = setting.ranks, setting.microbatches
        self.check(p, m)
        size = self.group(setting)
        columns = [rank_order(r, p, m, self.chunks, size) for r in range(p)]
        return Program.from_arrays(self.placement(p), columns, m)

    def theory(self, setting: Setting) -> Theory | None:
        """Equal stages, free transfers, at least two whole groups, and W no longer than I.

        Table 1's two rows are the ends of one formula: groups of g < P idle (V-1)(P-g)(F+I-W) longer than
        groups of P. Replays agree for g = P and g = P/2; in between they agree for F = I = W (where section 4
        gives (P-g)(V-1) as well) and idle a little less otherwise.
        """
        p, m, v, g = setting.ranks, setting.microbatches, self.chunks, self.group(setting)
        f, i, w = _means(setting.costs_for(p * v))
        exact = g == p or 2 * g == p or (2 * g > p and f == i == w)
        if not exact or m % g or m < 2 * g or w > i:
            return None
        idle = (p - 1) * (f + i) + (v - 1) * (p - g) * (f + i - w)
        return Theory(
            source=SOURCE,
            bubble_fraction=idle / (idle + v * m * (f + i + w)),
            peak_in_flight=[(g * (v - 1) + p - r) / v for r in range(p)],
        )


@register
@dataclass(frozen=True)
class GIS(GroupedInterleaved):
    """Interleaved 1F1B with split backwards and a shorter warm-up; W right after its I."""

    name: ClassVar[str] = "gis"
    summary: ClassVar[str] = "interleaved 1F1B with the peak memory of 1F1B"
    bubble: ClassVar[str] = "(P-1)(F+I), of chunks"
    memory: ClassVar[str] = "(V P - r) / V on rank r"

    def default_group(self, setting: Setting) -> int:
        """Groups of P."""
        return setting.ranks


@register
@dataclass(frozen=True)
class GISH(GroupedInterleaved):
    """GIS with groups of half the ranks: about half the memory of interleaved 1F1B."""

    name: ClassVar[str] = "gis-h"
    summary: ClassVar[str] = "generalised interleaving in groups of P/2: about half the memory"
    bubble: ClassVar[str] = "(P-1)(F+I) + (V-1) P/2 (F+I-W), of chunks"
    memory: ClassVar[str] = "(ceil(P/2)(V-1) + P - r) / V on rank r"

    def default_group(self, setting: Setting) -> int:
        """The smallest group whose work covers a pass over all ranks: half the ranks, more if F or I dominates."""
        half = (setting.ranks + 1) // 2
        f, i, w = _means(setting.costs_for(setting.ranks * self.chunks))
        needed = setting.ranks * max(f, i) / (f + i + w)
        # Rounded before taking the ceiling: means of equal integers may be off by one unit in the last place.
        return min(setting.ranks, max(half, math.ceil(round(needed, 9))))


def check_offload(name: str, offload: Offload) -> None:
    """Raise ScheduleError for a share above 1."""
    share = offload if isinstance(offload, int | float) else 0
    require(0 <= share <= 1, f"{name}: offload must be none, half, full, or a share from 0 to 1, found {offload}")


class Offloads(Protocol):
    """The options of a schedule whose activations may go to host memory."""

    @property
    def chunks(self) -> int:
        """Stages per rank."""
        ...

    @property
    def offload(self) -> Offload:
        """What leaves."""
        ...

    @property
    def copies(self) -> Copies:
        """Which slots copies use."""
        ...

    @property
    def overload(self) -> Overload:
        """What happens to copies that take longer than computing."""
        ...


def offloading_of(schedule: Offloads) -> Offloading | None:
    """What the options mean; half is rounded up to whole chunks."""
    chunks, offload = schedule.chunks, schedule.offload
    named = {"none": 0.0, "half": math.ceil(chunks / 2) / chunks, "full": 1.0}
    share = named[offload] if isinstance(offload, str) else float(offload)
    return Offloading(share, schedule.copies == "alternating", schedule.overload == "wait") if share else None


def rank_order(rank: int, ranks: int, microbatches: int, chunks: int, group: int) -> Ops:
    """Ops of one rank, sorted by their slots in the repeated block.

    In a block of 3 g V slots, rank r has forwards at r mod 3, I one slot and W two slots later. Groups
    smaller than P/2 spread their chunks over several blocks, so that the pass over all ranks has the time
    it needs.
    """
    chunk, microbatch = (a.ravel() for a in np.meshgrid(np.arange(chunks), np.arange(microbatches), indexing="ij"))
    blocks, place = np.divmod(microbatch, group)
    chunk_slot = _chunk_slots(ranks, chunks, group)
    slot = chunk_slot[chunk] + 3 * (place + blocks * group * chunks)
    first_backward = chunk_slot[-1] + 3 * (ranks - 1) - 2 * rank + 1
    order = np.argsort(np.concatenate([slot + rank, slot + first_backward, slot + first_backward + 1]), kind="stable")
    down, up = chunk * ranks + rank, (chunks - 1 - chunk) * ranks + rank
    kind = np.repeat([Kind.F, Kind.I, Kind.W], len(slot))
    stage, every = np.concatenate([down, up, up]), np.tile(microbatch, 3)
    return Ops(kind[order].astype(np.int64), stage[order], every[order])


def _chunk_slots(ranks: int, chunks: int, group: int) -> NDArray[np.int64]:
    """First forward slot of every chunk on rank 0, shape (V,).

    Chunks are k groups apart, k g >= P/2; where that would come round to a slot already taken, one group
    is added.
    """
    apart = math.ceil(math.ceil(ranks / 2) / group)
    chunk = np.arange(chunks)
    rounds = chunk // (chunks // math.gcd(chunks, apart))
    return 3 * group * (apart * chunk + rounds)


def _means(costs: StepCosts) -> tuple[float, float, float]:
    return float(np.mean(costs.forward)), float(np.mean(costs.input_grad)), float(np.mean(costs.weight_grad))
