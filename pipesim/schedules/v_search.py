"""Search for a good order on a V placement under a memory limit, for given costs.

Two sources of candidates. Building blocks of period 6 with uniform offsets, as arXiv 2405.15362 enumerates them:
best when forwards and backwards take equally long. And list schedules whose priorities come from building blocks
with the real costs, improved by changing one number at a time: best when they do not. The same seed gives the same
order.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipesim.schedules import blocks
from pipesim.schedules.v_journey import LEGS, OPS, Ints
from pipesim.schedules.v_list import Costs, Policy, list_schedule, measure

PERIOD = 6
_SEED = 0
_EFFORT = 4_000_000
"""Ops placed by list scheduling in one search: about a second, less for small programs."""
_MOST_TRIES = 3000
_BLOCKS = 200
"""Blocks tried. Those that fill the limit best come first; with unit costs the best was among the first 172 for
P = 8, 16, 32 at any limit.
"""
_NEVER = 1e18


class Problem(NamedTuple):
    """What is given: costs, M, the chunk activations that a rank may hold, and whether spans matter more than the
    makespan (they do when ranks do not wait for each other before the optimizer step).
    """

    costs: Costs
    microbatches: int
    limit: int
    by_span: bool


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


def best_of(candidates: Iterator[Scored]) -> Scored | None:
    """The first candidate with the smallest score; None if there are none."""
    return min(candidates, key=lambda candidate: candidate.score, default=None)


def block_orders(problem: Problem) -> Iterator[Scored]:
    """Orders of building blocks that keep the limit, those that hold activations longest first."""
    ranks = problem.costs.duration.shape[1]
    for block in sorted(uniform_blocks(ranks, problem.limit), key=residence, reverse=True)[:_BLOCKS]:
        order = blocks.unroll(block, problem.microbatches, PERIOD, problem.limit)
        if order is not None:
            yield scored(problem, order)


def residence(block: Ints) -> int:
    """Slots that a block's two activations are held at least, on the rank with the most: from F until I and W end."""
    return int((block[3] - block[0] + block[2] - block[1]).max()) + 4


def uniform_blocks(ranks: int, limit: int) -> Iterator[Ints]:
    """Blocks of four legs, shape (4, P), in unit slots, that a limit on activations may allow.

    Rank 0 runs its legs in any four different slots modulo 6. From rank to rank the legs down come 1 to 5 slots
    later, up to some rank by more than after it, and the legs up one slot earlier (arXiv 2405.15362, section 3.1
    and appendix A). A leg may also wait for a whole period at either end of the near chunk's stay.
    """
    first = np.array([(0, *rest) for rest in permutations(range(1, PERIOD), LEGS - 1)])
    for down in _descents(ranks):
        step = np.stack([down, -np.arange(ranks), down, -np.arange(ranks)])
        slots = (first[:, :, None] + step) % PERIOD
        distinct = (np.diff(np.sort(slots, axis=1), axis=1) > 0).all(axis=(1, 2))
        for residues in slots[distinct]:
            block = _unwind(residues)
            for early, late in ((0, 0), (1, 0), (0, 1), (1, 1)):
                longer = block + PERIOD * np.array([0, early, early, early + late])[:, None]
                if residence(longer) <= PERIOD * limit:
                    yield longer


def _descents(ranks: int) -> Iterator[Ints]:
    """Slots of a leg down relative to rank 0: steps of one size up to some rank, and of a smaller one after it."""
    place = np.arange(ranks - 1)
    for large in range(1, PERIOD):
        for small in range(1, large + 1):
            for turn in range(1, ranks) if small < large else [ranks]:
                yield np.concatenate([[0], np.cumsum(np.where(place < turn, large, small))])


def _unwind(residues: Ints) -> Ints:
    """The earliest block with these slots modulo 6, along the journey of a micro-batch."""
    block = np.zeros_like(residues)
    slot = -1
    for leg, row in enumerate(residues):
        for rank in range(len(row)) if leg % 2 == 0 else range(len(row) - 1, -1, -1):
            slot += 1 + (row[rank] - slot - 1) % PERIOD
            block[leg, rank] = slot
    return block


def list_orders(problem: Problem) -> Iterator[Scored]:
    """List schedules: random policies first, then changes to the best three of them."""
    rng = np.random.default_rng(_SEED)
    ranks = problem.costs.duration.shape[1]
    tries = int(np.clip(_EFFORT // (OPS * ranks * problem.microbatches), 40, _MOST_TRIES))
    pool = []
    for _ in range(tries // 4):
        genes = _random(problem, rng)
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


def _random(problem: Problem, rng: Generator) -> _Genes:
    """A block with the real costs: legs down slower by a factor that may fall along the ranks, pauses at the turns."""
    duration, hop = problem.costs.duration, problem.costs.hop
    ranks, limit = duration.shape[1], problem.limit
    forward, backward = duration[:2].mean(), duration[2:4].mean()
    small, large = np.sort(rng.integers(1, PERIOD, 2))
    slow = np.where(np.arange(ranks - 1) < rng.integers(0, ranks), large, small)
    rank = np.arange(ranks)
    down = np.concatenate([[0], np.cumsum(slow)])
    up = rank[::-1]
    pause = 1 + rng.integers(0, PERIOD, 3)
    offset = np.zeros((LEGS, ranks))
    offset[0] = down * forward + rank * hop
    offset[1] = offset[0, -1] + pause[0] * forward + up * (forward + hop)
    offset[2] = offset[1, 0] + pause[1] * forward + down * backward + rank * hop
    offset[3] = offset[2, -1] + pause[2] * backward + up * (backward + hop)
    return _Genes(
        offset=offset,
        warm=_warm(ranks, limit, rng),
        weight_lag=_weight_lag(problem, rng),
        patience=_patience(problem, rng),
        drain=min(int(rng.choice([0, 0, 1, 2, 4, limit // 2, limit])), problem.microbatches),
    )


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
