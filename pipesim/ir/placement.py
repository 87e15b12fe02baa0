"""Placements: which rank holds which stage, on every route that micro-batches can take.

A route is one assignment stage -> rank. Ordinary schedules have one route; bidirectional schedules have
two or more; a helical one has a route per micro-batch offset. All of them are the same table here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipesim.ir.cut import Cut

Ranks = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Placement:
    """``rank_of[route, stage]`` is the rank that runs ``stage`` for micro-batches of ``route``.

    ``weighted`` says which stages hold weights (attention without its projections does not), shape (S,).
    ``cut`` is there when stages are not runs of whole layers. ``copies``: data-parallel replicas side by side, each
    with its own part of the ranks and of the routes.
    """

    ranks: int
    rank_of: Ranks
    weighted: NDArray[np.bool_]
    cut: Cut | None = None
    copies: int = 1

    @classmethod
    def of(cls, ranks: int, rank_of: ArrayLike, weighted: ArrayLike | None = None, cut: Cut | None = None) -> Placement:
        """A placement from any (routes, stages) table; a single row may be given flat."""
        table = np.atleast_2d(np.asarray(rank_of, dtype=np.int32))
        has_weights = np.ones(table.shape[1], bool) if weighted is None else np.asarray(weighted, bool)
        return cls(ranks, table, has_weights, cut)

    @property
    def routes(self) -> int:
        """Number of routes."""
        return int(self.rank_of.shape[0])

    @property
    def stages(self) -> int:
        """Number of stages S."""
        return int(self.rank_of.shape[1])

    @property
    def chunks(self) -> float:
        """Stages that one rank holds on one route, on average: a chunk is 1/chunks of a rank's share."""
        return self.stages * self.copies / self.ranks

    @property
    def share_activations(self) -> float:
        """Activations (a stage's of one micro-batch) that make up one rank's whole share: the chunks, or as the cut
        counts them.
        """
        return self.chunks if self.cut is None else int(self.cut.activation.sum()) * self.copies / self.ranks

    @cached_property
    def holds(self) -> NDArray[np.bool_]:
        """``holds[rank, stage]``: the rank keeps this stage's weights, shape (P, S)."""
        table = np.zeros((self.ranks, self.stages), bool)
        for route in self.rank_of:
            table[route, np.arange(self.stages)] = True
        return table & self.weighted

    @cached_property
    def replicas(self) -> NDArray[np.int64]:
        """How many ranks keep each stage's weights, shape (S,)."""
        counts: NDArray[np.int64] = self.holds.sum(axis=0)
        return counts

    def stages_of(self, rank: int, route: int = 0) -> NDArray[np.int64]:
        """Stages of ``rank`` on ``route``, in model order."""
        return np.flatnonzero(self.rank_of[route] == rank)


def linear(ranks: int) -> Placement:
    """One stage per rank, in order."""
    return Placement.of(ranks, np.arange(ranks))


def looped(ranks: int, chunks: int) -> Placement:
    """Stage s on rank s mod P, ``chunks`` stages per rank (Megatron's virtual stages)."""
    return Placement.of(ranks, np.arange(ranks * chunks) % ranks)


def zigzag(ranks: int, chunks: int) -> Placement:
    """Down the ranks and up again, turning at both ends; two chunks are the V shape."""
    down = np.arange(ranks)
    legs = [down if leg % 2 == 0 else down[::-1] for leg in range(chunks)]
    return Placement.of(ranks, np.concatenate(legs))


def vee(ranks: int) -> Placement:
    """Stages r and 2P-1-r on rank r: the V shape of ZB-V and DualPipeV."""
    return zigzag(ranks, 2)
