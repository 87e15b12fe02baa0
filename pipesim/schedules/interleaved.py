"""Interleaved 1F1B (depth-first), in the order of Megatron-LM's table of virtual micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.op import Kind
from pipesim.ir.placement import Placement, looped
from pipesim.ir.program import Program
from pipesim.schedules.base import Schedule, Setting, Theory, option, require
from pipesim.schedules.registry import register
from pipesim.schedules.shapes import Ops, ops, warmup_steady_drain


@register
@dataclass(frozen=True)
class InterleavedOneFOneB(Schedule):
    """1F1B over several chunks per rank: micro-batches in groups, each group through chunk after chunk.

    With one chunk it is 1F1B. ``group_size`` is Megatron's ``microbatch_group_size_per_vp_stage``:
    P is depth-first, M has breadth-first's forward order, anything between trades memory for hop hiding.
    """

    name: ClassVar[str] = "interleaved-1f1b"
    aliases: ClassVar[tuple[str, ...]] = ("depth-first",)
    citation: ClassVar[str] = (
        "Narayanan et al., SC 2021, arXiv 2104.04473, section 2.2; order and group size as in "
        "NVIDIA/Megatron-LM:megatron/core/pipeline_parallel/schedules.py; Llama 3, arXiv 2407.21783, section 3.3.2"
    )
    summary: ClassVar[str] = "1F1B with several chunks per rank, depth-first"
    requires: ClassVar[str] = "P <= group_size <= M, and M mod group_size is 0 or at least P"
    bubble: ClassVar[str] = "(P-1)/(V M + P-1)"
    memory: ClassVar[str] = "min(2(P-r-1) + (V-1) P + 1, M V) / V on rank r"

    chunks: int = option(2, "stages per rank (virtual pipeline stages)")
    group_size: int | None = option(None, "micro-batches per group, at least P; default P")

    def check(self, ranks: int, microbatches: int) -> None:
        """Megatron's conditions on the group size."""
        require(self.chunks >= 1, f"{self.name}: chunks must be at least 1, found {self.chunks}")
        if self.chunks == 1:
            return
        size = self._group(ranks)
        rest = microbatches % size
        require(
            microbatches >= ranks,
            f"{self.name}: with several chunks M must be at least P = {ranks}, found {microbatches}; "
            f"use {ranks} micro-batches or more, or chunks: 1",
        )
        require(
            ranks <= size <= microbatches,
            f"{self.name}: the group size must be between P = {ranks} and M = {microbatches}, found {size}",
        )
        nearest_up = microbatches + size - rest
        require(
            rest == 0 or rest >= ranks,
            f"{self.name}: {microbatches} micro-batches leave a last group of {rest} after groups of {size}; "
            f"it must be empty or at least P = {ranks}: use {microbatches - rest} or {nearest_up} micro-batches",
        )

    def placement(self, ranks: int) -> Placement:
        """Stage s on rank s mod P."""
        return looped(ranks, self.chunks)

    def chunks_per_rank(self) -> int:
        """As the option says."""
        return self.chunks

    @property
    def paired_exchanges(self) -> bool:
        """As Megatron-LM does with several chunks per rank."""
        return self.chunks > 1

    def program(self, setting: Setting) -> Program:
        """All ranks, as arrays."""
        p, m = setting.ranks, setting.microbatches
        self.check(p, m)
        microbatch, chunk = grouped_table(m, self.chunks, self._group(p))
        columns = [self._rank_ops(r, p, microbatch, chunk) for r in range(p)]
        return Program.from_arrays(self.placement(p), columns, m)

    def _rank_ops(self, rank: int, ranks: int, microbatch: NDArray[np.int32], chunk: NDArray[np.int32]) -> Ops:
        forwards = ops(Kind.F, chunk * ranks + rank, microbatch)
        backwards = ops(Kind.B, (self.chunks - 1 - chunk) * ranks + rank, microbatch)
        return warmup_steady_drain(forwards, backwards, self._warmup(rank, ranks))

    def _warmup(self, rank: int, ranks: int) -> int:
        if self.chunks == 1:
            return ranks - 1 - rank
        return 2 * (ranks - rank - 1) + (self.chunks - 1) * self._group(ranks)

    def _group(self, ranks: int) -> int:
        return self.group_size if self.group_size is not None else ranks

    def theory(self, setting: Setting) -> Theory | None:
        """Equal stages, free transfers, groups of P that divide M."""
        p, m, v = setting.ranks, setting.microbatches, self.chunks
        if self._group(p) != p or m % p:
            return None
        return Theory(
            source="arXiv 2104.04473 section 2.2; peaks from the warm-up count of Megatron-LM's schedules.py",
            bubble_fraction=(p - 1) / (v * m + p - 1),
            peak_in_flight=[min(self._warmup(r, p) + 1, m * v) / v for r in range(p)],
        )


def grouped_table(microbatches: int, chunks: int, group: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Megatron's table: per group of micro-batches, chunk by chunk. Micro-batch and chunk, each (M V,).

    Example: M=5, V=2, groups of 3 give micro-batches 0 1 2 0 1 2 3 4 3 4 on chunks 0 0 0 1 1 1 0 0 1 1.
    """
    groups = [np.arange(i, min(i + group, microbatches), dtype=np.int32) for i in range(0, microbatches, group)]
    microbatch = np.concatenate([np.tile(g, chunks) for g in groups])
    chunk = np.concatenate([np.repeat(np.arange(chunks, dtype=np.int32), len(g)) for g in groups])
    return microbatch, chunk
