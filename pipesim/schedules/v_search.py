"""Search for a good order on a V placement under a memory limit, for given costs.

Two sources of candidates: building blocks in unit slots, best when forwards and backwards take equally long; and
list schedules whose priorities come from the same blocks at the real costs, improved by changing a few numbers at a
time, best when they do not. The same seed gives the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipesim.schedules import blocks, v_blocks
from pipesim.schedules.v_journey import LEGS, OPS, Ints
from pipesim.schedules.v_list import Costs, Policy, list_schedule, measure

_SEED = 0
_OPS = 2_000_000
"""Ops placed by list scheduling, or by blocks, in one search of effort 1: about half a second."""
_MOST_TRIES = 2000
_BLOCKS = 200
"""Fewest blocks tried. Those that fill the limit best come first; with unit costs the best was among the first 172
for P = 8, 16, 32 at any limit.
"""
_LIST_SCHEDULES = 40
"""Fewest list schedules tried."""
_NEVER = 1e18


class Problem(NamedTuple):
    """What is given: costs, M, the chunk activations that a rank may hold, and whether spans matter more than the
    makespan (they do when ranks do not wait for each other before the optimizer step).
    """

    costs: Costs
    microbatches: int
    limit: int
    by_span: bool
    effort: float = 1.0

    def tries(self, fewest: int) -> int:
        """How many orders to try, ``fewest`` at effort 1 for large programs."""
        affordable = np.clip(_OPS // (OPS * self.costs.duration.shape[1] * self.microbatches), fewest, _MOST_TRIES)
        return max(1, round(self.effort * int(affordable)))


class Scored(NamedTuple):
    """An order, and what is to be minimised: makespan then span, or span then makespan."""

    score: tuple[int, int]
    order: Ints


class _Genes(NamedTuple):
    """A list-scheduling policy in few numbers.

    ``offset`` is the priority of the first micro-batch's legs, shape (4, P), in picoseconds; the next micro-batch
    comes one period later, except the last ``drain`` ones, which compete by leg alone.
    """

    offset: NDArray[np.float64]
    warm: Ints
    weight_lag: float
    patience: int
    drain: int


def scored(problem: Problem, order: Ints) -> Scored:
    """The order with its score."""
    makespan, span = measure(problem.costs, problem.microbatches, order)
    return Scored((span, makespan) if problem.by_span else (makespan, span), order)


def best_of(candidates: Iterable[Scored], least: tuple[int, int] = (0, 0)) -> Ints:
    """The order with the smallest score; looks no further once both numbers of a score are ``least``.

    Raises:
        ValueError: there are no candidates.
    """
    best: Scored | None = None
    for candidate in candidates:
        if best is None or candidate.score < best.score:
            best = candidate
            if best.score[0] <= least[0] and best.score[1] <= least[1]:
                break
    if best is None:
        raise ValueError("no orders to choose from")
    return best.order


def block_orders(problem: Problem) -> Iterator[Scored]:
    """Orders of building blocks that keep the limit, those that hold activations longest first."""
    ranks = problem.costs.duration.shape[1]
    for block in v_blocks.longest_first(ranks, problem.limit)[: problem.tries(_BLOCKS)]:
        order = blocks.unroll(block, problem.microbatches, v_blocks.PERIOD, problem.limit)
        if order is not None:
            yield scored(problem, order)


def list_orders(problem: Problem) -> Iterator[Scored]:
    """List schedules: blocks at the real costs first, then changes to the best three of them."""
    rng = np.random.default_rng(_SEED)
    tries = problem.tries(_LIST_SCHEDULES)
    ranks = problem.costs.duration.shape[1]
    shapes = v_blocks.longest_first(ranks, problem.limit) or [v_blocks.straight(ranks)]
    pool = []
    for _ in range(1 + tries // 4):
        # Squared, so that blocks that use more of the memory come up more often.
        genes = _random(problem, shapes[int(len(shapes) * rng.random() ** 2)], rng)
        pool.append((_schedule(problem, genes), genes))
        yield pool[-1][0]
    pool.sort(key=lambda entry: entry[0].score)
    for current, genes in pool[:3]:
        for _ in range(tries // 4):
            changed = _changed(problem, genes, rng)
            found = _schedule(problem, changed)
            yield found
            if found.score <= current.score:
                current, genes = found, changed


def _schedule(problem: Problem, genes: _Genes) -> Scored:
    costs, count = problem.costs, problem.microbatches
    period = float(costs.duration.sum(axis=0).max())
    number = np.arange(count)
    steady = np.minimum(number, count - genes.drain)
    progress = steady * period + (number - steady) * period / 1000
    priority = genes.offset[:, :, None] + progress
    policy = Policy(priority, genes.weight_lag, genes.patience, genes.warm)
    return scored(problem, list_schedule(costs, count, problem.limit, policy))


def _random(problem: Problem, block: Ints, rng: Generator) -> _Genes:
    """A block at the real costs, and the rest by chance."""
    ranks = block.shape[1]
    return _Genes(
        offset=_at_real_costs(problem, block),
        warm=_warm(ranks, problem.limit, rng),
        weight_lag=_weight_lag(problem, rng),
        patience=_patience(problem, rng),
        drain=min(int(rng.choice([0, 0, 1, 2, 4, problem.limit // 2, problem.limit])), problem.microbatches),
    )


def _at_real_costs(problem: Problem, block: Ints) -> NDArray[np.float64]:
    """Slots of a block, shape (4, P), as picoseconds: each takes what the op before it takes, plus transfers."""
    ranks = block.shape[1]
    path = np.concatenate([np.arange(ranks), np.arange(ranks)[::-1]] * 2)
    leg = np.repeat(np.arange(LEGS), ranks)
    slots = np.diff(block[leg, path])
    paced = slots * problem.costs.duration[leg, path][:-1] + problem.costs.hop * (np.diff(path) != 0)
    offset = np.zeros(block.shape)
    offset[leg[1:], path[1:]] = np.cumsum(paced)
    return offset


def _warm(ranks: int, limit: int, rng: Generator) -> Ints:
    """Near activations before the first backward: all but one place, or fewer on each rank down to a half."""
    near = limit - 1 - np.arange(ranks) * int(rng.integers(0, 2))
    least = max(1, (limit + int(rng.integers(0, 2))) // 2)
    return np.clip(near, min(least, limit - 1), limit - 1)


def _weight_lag(problem: Problem, rng: Generator) -> float:
    period = float(problem.costs.duration.sum(axis=0).max())
    return float(rng.choice([_NEVER, _NEVER, period / 10, period / 6, period / 3, period / 2, period]))


def _patience(problem: Problem, rng: Generator) -> int:
    forward = int(problem.costs.duration[0].mean())
    return int(rng.choice([0, 0, problem.costs.hop, forward // 4, forward // 2]))


def _changed(problem: Problem, genes: _Genes, rng: Generator) -> _Genes:
    """The policy with one number, or the slope or level of one leg, changed."""
    ranks = problem.costs.duration.shape[1]
    period = float(problem.costs.duration.sum(axis=0).max())
    choice = rng.random()
    if choice < 0.75:
        offset = genes.offset.copy()
        leg, rank = rng.integers(LEGS), rng.integers(ranks)
        if choice < 0.4:
            offset[leg, rank] += rng.normal() * period / 4
        elif choice < 0.6:
            offset[leg] += rng.normal() * period / 4
        else:
            offset[leg] += (np.arange(ranks) - rank) * rng.normal() * period / 12
        return genes._replace(offset=offset)
    if choice < 0.85:
        warm = genes.warm.copy()
        rank = rng.integers(ranks)
        warm[rank] = np.clip(warm[rank] + rng.choice([-1, 1]), 1, problem.limit - 1)
        return genes._replace(warm=warm)
    if choice < 0.9:
        return genes._replace(drain=int(np.clip(genes.drain + rng.integers(-2, 3), 0, problem.microbatches)))
    if choice < 0.95:
        return genes._replace(weight_lag=_weight_lag(problem, rng))
    return genes._replace(patience=_patience(problem, rng))
