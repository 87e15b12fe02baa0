"""Interleaved zero-bubble: interleaved 1F1B with split backwards, where rank r puts r weight gradients off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipesim.ir.op import Kind
from pipesim.ir.placement import Placement, looped
from pipesim.ir.program import Program
from pipesim.schedules.base import Optimizer, Schedule, Setting, Theory, optimizer_option, option, require
from pipesim.schedules.registry import register
from pipesim.schedules.shapes import Ops, ops, warmup_steady_drain


@register
@dataclass(frozen=True)
class InterleavedZeroBubble(Schedule):
    """PyTorch's ScheduleInterleavedZeroBubble; with one chunk it is ZB-H1.

    Micro-batches go in max(1, M div P) rounds of equal size, and every round through chunk after chunk. The
    warm-up is one forward per rank shorter than that of interleaved 1F1B.
    """

    name: ClassVar[str] = "interleaved-zb"
    citation: ClassVar[str] = (
        "Qi et al., Zero Bubble, arXiv 2401.10241, section 2, over several chunks; order as in "
        "pytorch/pytorch:torch/distributed/pipelining/schedules.py, ScheduleInterleavedZeroBubble"
    )
    summary: ClassVar[str] = "ZB-H1 over several chunks per rank"
    requires: ClassVar[str] = "M a multiple of M div P (any M < 2P, any multiple of P)"
    bubble: ClassVar[str] = "(P-1)(F+I-W), of chunks"
    memory: ClassVar[str] = "P on every rank"

    chunks: int = option(2, "stages per rank")
    optimizer: Optimizer = optimizer_option()

    def check(self, ranks: int, microbatches: int) -> None:
        """Rounds of equal size."""
        require(self.chunks >= 1, f"{self.name}: chunks must be at least 1, found {self.chunks}")
        rounds = _rounds(ranks, microbatches)
        below = microbatches - microbatches % rounds
        require(
            below == microbatches,
            f"{self.name}: {microbatches} micro-batches on {ranks} ranks go in {rounds} rounds, which must be "
            f"equally large: use {below} or {_next_even_rounds(ranks, microbatches)} micro-batches",
        )

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
        columns = [self._rank_ops(r, p, m) for r in range(p)]
        return Program.from_arrays(self.placement(p), columns, m)

    def _rank_ops(self, rank: int, ranks: int, microbatches: int) -> Ops:
        v, rounds = self.chunks, _rounds(ranks, microbatches)
        size = microbatches // rounds
        chunk = np.tile(np.repeat(np.arange(v), size), rounds)
        microbatch = np.concatenate([np.tile(np.arange(i * size, (i + 1) * size), v) for i in range(rounds)])
        last_first = (v - 1 - chunk) * ranks + rank
        skeleton = warmup_steady_drain(
            ops(Kind.F, chunk * ranks + rank, microbatch),
            ops(Kind.I, last_first, microbatch),
            (v - 1) * size + ranks - 1 - rank,
        )
        return with_late_weights(skeleton, rank)

    def theory(self, setting: Setting) -> Theory | None:
        """Equal stages, free transfers, rounds of P, and W no longer than F or I.

        The bubble is ZB-H1's with chunks for stages: P-1 chunk passes, as interleaving does to 1F1B.
        """
        p, m, v = setting.ranks, setting.microbatches, self.chunks
        costs = setting.costs_for(p * v)
        f, i, w = (float(np.mean(x)) for x in (costs.forward, costs.input_grad, costs.weight_grad))
        if m % p or w > min(f, i):
            return None
        idle = (p - 1) * (f + i - w)
        return Theory(
            source="arXiv 2401.10241, Table 2 (ZB-H1), per chunk; peaks from the warm-up count of PyTorch's schedule",
            bubble_fraction=idle / (idle + v * m * (f + i + w)),
            peak_in_flight=[p] * p,
        )


def with_late_weights(skeleton: Ops, delay: int) -> Ops:
    """Put a W after every I, but ``delay`` I later than its own; the last ``delay`` W come at the end."""
    inputs = np.flatnonzero(skeleton.kind == Kind.I)
    delay = min(delay, len(inputs))
    slot = np.concatenate([inputs[delay:], np.full(delay, len(skeleton.kind))])
    weights = ops(Kind.W, skeleton.stage[inputs], skeleton.microbatch[inputs])
    return Ops(*(np.insert(a, np.minimum(slot + 1, len(a)), b) for a, b in zip(skeleton, weights, strict=True)))


def _rounds(ranks: int, microbatches: int) -> int:
    return max(1, microbatches // ranks)


def _next_even_rounds(ranks: int, microbatches: int) -> int:
    above = microbatches + 1
    while above % _rounds(ranks, above):
        above += 1
    return above
