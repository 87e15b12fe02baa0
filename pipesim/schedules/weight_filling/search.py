"""Search for the cheapest order: many plans for one greedy construction, until none can be better."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipesim.schedules.weight_filling.bound import Counts, Line, Times, lower_bound, warmup_counts
from pipesim.schedules.weight_filling.fill import RANK, build
from pipesim.schedules.weight_filling.polish import polish

Kinds = NDArray[np.int8]

_SLACKS = (0, 1 / 32, 1 / 16, 3 / 32, 1 / 8, 5 / 32, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)
"""How far above the lower bound to aim, in units of one micro-batch's work on a rank."""
_SHARES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)
"""The same later on, in units of the gap between the bound and the best order."""
_PATIENCES = (0.5, 0.75, 0.0, 1.01)
"""Shares of a W that a gap must have; with the last one, a W never makes another op late by choice."""

_BUILT_OPS = 40_000_000
_POLISHED_OPS = 30_000_000
"""What one unit of effort may spend: each takes about half a second."""
_MARGIN = 3e-4
_NEVER = np.iinfo(np.int64).max // 4


class Plan(NamedTuple):
    """What steers one construction; see `fill.build`. Arrays of shape (P,), but ``latest`` of (P, M)."""

    warmup: Counts
    promised: Counts
    idle: Times
    latest: Times
    patience: float
    yielding: bool


def find_order(line: Line, origin: Times, second: Times, effort: float = 1.0) -> Kinds:
    """Kinds of op in order for every rank, shape (P, 3 M); within a kind, micro-batches ascend.

    The cost is the maximum over ranks of the end of the last op minus ``origin``; among orders of equal cost,
    the maximum minus ``second`` decides. ``effort`` scales how long the search goes on when it cannot show
    that its result is optimal. The same input gives the same order.
    """
    search = Search(line, (origin, second), effort)
    search.run()
    return search.best.reshape(line.ranks, -1)


class Search:
    """The best order so far and what it costs, and the buffers in which the next one is built."""

    def __init__(self, line: Line, origins: tuple[Times, Times], effort: float = 1.0) -> None:
        self.line, self.origins, self.effort = line, origins, effort
        self.bound = tuple(lower_bound(line, origin) for origin in origins)
        self.cost = (_NEVER, _NEVER)
        self.plan: Plan | None = None
        self.ranks = _records(line)
        self.kinds = np.zeros(3 * line.ranks * line.microbatches, np.int8)
        self.best = self.kinds
        self.end = np.zeros((2, line.ranks, line.microbatches), np.int64)
        self.ops_left = int(_BUILT_OPS * effort)

    def run(self) -> None:
        """From coarse to fine, until the lower bound is reached or the effort spent."""
        self._survey()
        self._repeat(self._closer_plans)
        self._repeat(self._neighbours)
        self._polish()

    @property
    def finished(self) -> bool:
        """Nothing can be better, or no more may be spent."""
        return self.ops_left < 0 or self.cost <= self.bound

    def _survey(self) -> None:
        period = int(self.line.work.mean()) // self.line.microbatches
        for slack in _SLACKS:
            self._try(_plans(self.line, self.origins[0], self.bound[0] + int(slack * period)))

    def _repeat(self, source: Callable[[], Iterable[Plan]]) -> None:
        """Try plans from ``source``, which look at the best order so far, until that no longer helps."""
        before = (_NEVER, _NEVER)
        while self.cost < before and not self.finished:
            before = self.cost
            self._try(source())

    def _try(self, plans: Iterable[Plan]) -> None:
        for plan in plans:
            if self.finished:
                return
            self._build(plan)

    def _closer_plans(self) -> Iterator[Plan]:
        gap = self.cost[0] - self.bound[0]
        for share in _SHARES:
            yield from _plans(self.line, self.origins[0], self.bound[0] + int(share * gap))

    def _neighbours(self) -> Iterator[Plan]:
        """The best plan with a few forwards more or less in the warm-up: of one rank, or also of those beyond.

        More forwards need more on the ranks before; fewer are enough for the ranks after.
        """
        p = self.line.ranks
        for rank, shift, alone, patience in product(range(p), (1, -1, 2, -2), (True, False), _PATIENCES):
            plan = self.plan
            assert plan is not None
            warmup = plan.warmup.copy()
            beyond = slice(0, rank + 1) if shift > 0 else slice(rank, p)
            warmup[rank if alone else beyond] += shift
            warmup = np.clip(warmup, 1, self.line.most_forwards)
            if (warmup != plan.warmup).any():
                yield plan._replace(warmup=warmup, patience=patience)

    def _build(self, plan: Plan) -> None:
        """Build the order of a plan, and keep it if it is better."""
        ranks = self.ranks
        self.ops_left -= self.kinds.size
        ranks["most_idle"] = self.cost[0] + self.origins[0] - self.line.first - self.line.work
        ranks["warmup"], ranks["promised"], ranks["idle"] = plan.warmup, plan.promised, plan.idle
        if build(ranks, self.kinds, self.end, plan.latest, self.line.hop, plan.patience, plan.yielding):
            self._keep(self.kinds, plan)

    def _polish(self) -> None:
        """Improve on the best order itself, where a plan cannot say more."""
        tries = int(_POLISHED_OPS * self.effort) // self.kinds.size
        if self.cost[0] <= self.bound[0] or self.plan is None:
            return
        goal = self.bound[0] + self.origins[0]
        kinds = self.best.reshape(self.line.ranks, -1)
        better = polish(self.ranks, kinds, goal, self.line.hop, int(_MARGIN * self.bound[0]), tries)
        self._keep(better.ravel(), self.plan)

    def _keep(self, kinds: Kinds, plan: Plan) -> None:
        """Keep the order that was just replayed if it is the best."""
        clock = self.ranks["clock"]
        cost = (int((clock - self.origins[0]).max()), int((clock - self.origins[1]).max()))
        if cost < self.cost:
            self.cost, self.plan, self.best = cost, plan, kinds.copy()


def _records(line: Line) -> NDArray[np.void]:
    ranks = np.zeros(line.ranks, RANK)
    for name in ("forward", "input_grad", "weight_grad", "first", "whole", "part", "capacity"):
        ranks[name] = getattr(line, name)
    return ranks


def _plans(line: Line, origin: Times, target: int) -> Iterator[Plan]:
    """Plans that aim at a cost of ``target``."""
    idle = np.maximum(0, target + origin - line.first - line.work)
    latest = _latest_input_grads(line, idle)
    for warmup in _warmups(line, idle):
        for promised, patience, yielding in product(_promises(warmup), _PATIENCES, (True, False)):
            yield Plan(warmup, promised, idle, latest, patience, yielding)


def _warmups(line: Line, idle: Times) -> list[Counts]:
    """Different ways in which the forwards before the first I may become fewer from rank to rank.

    As late as possible, which keeps the first ranks busy at the start; or in proportion to how long a rank
    waits for a gradient, which leaves all ranks enough in flight later on when memory is what limits them.
    """
    natural, _ = warmup_counts(line, idle)
    even = 1 + (natural[0] - 1) * line.below / max(1, line.below[0])
    rounded = (np.ceil(even), np.floor(even), natural)
    options = [np.maximum(1, np.minimum(natural, counts.astype(np.int64))) for counts in rounded]
    return list({counts.tobytes(): counts for counts in options}.values())


def _promises(warmup: Counts) -> list[Counts]:
    """Forwards placed for the ranks below before these decide: one, or as many as they may ask for."""
    one, below = np.ones_like(warmup), np.append(warmup[1:], 1)
    short = (below >= warmup) & (warmup > 1)
    return [one, below] if short.any() else [one]


def _latest_input_grads(line: Line, idle: Times) -> Times:
    """When each I should start at the latest if no rank is to wait longer than ``idle``, shape (P, M).

    Until its gradient arrives, a rank can run the I and W of all micro-batches before it, and forwards as
    far ahead as memory allows.
    """
    index = np.arange(line.microbatches)
    backwards = np.outer(line.input_grad + line.weight_grad, index)
    ahead = np.minimum(line.microbatches, index + line.most_forwards[:, None])
    own = (line.first + idle)[:, None] + backwards + ahead * line.forward[:, None]
    up = np.cumsum(line.input_grad + line.hop)[:, None]
    return np.minimum.accumulate(own + up, axis=0) - up
