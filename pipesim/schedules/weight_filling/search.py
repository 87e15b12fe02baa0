"""Search for the cheapest order: many plans for one greedy construction, until none can be better."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipesim.schedules.weight_filling.bound import Counts, Line, Times, lower_bound, warmup_counts
from pipesim.schedules.weight_filling.fill import RANK, build
from pipesim.schedules.weight_filling.polish import polish

Kinds = NDArray[np.int8]

_SLACKS = (0.0, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 1 / 2, 1.0)
_SHARES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)
_PATIENCES = (0.5, 0.75, 0.25, 1.01)
_BUILT_OPS = 60_000_000
_POLISHED_OPS = 100_000_000
_MARGIN = 3e-4


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

    The order costs as little as the search can find, the cost being the maximum over ranks of the end of the
    last op minus ``origin``; among equals, the maximum minus ``second`` decides. ``effort`` scales how long
    the search may go on when it cannot show that its result is optimal. Deterministic.
    """
    return _Search(line, origin, second, effort).run()


class _Search:
    """The best order so far, and the buffers in which the next one is built."""

    def __init__(self, line: Line, origin: Times, second: Times, effort: float) -> None:
        self.line, self.origins, self.effort = line, (origin, second), effort
        self.bound = (lower_bound(line, origin), lower_bound(line, second))
        self.busy_end = line.first + line.work
        self.ranks = _records(line)
        self.kinds = np.zeros(3 * line.ranks * line.microbatches, np.int8)
        self.end = np.zeros((2, line.ranks, line.microbatches), np.int64)
        self.best, self.plan, self.cost = self.kinds, None, (_FAR, _FAR)
        self.ops_left = int(_BUILT_OPS * effort)
        self.tries = 0

    def run(self):
        self.survey()
        self.tighten()
        self.climb()
        self.polish()
        return self.best.reshape(self.line.ranks, -1)

    def survey(self):
        period = int(self.line.work.mean()) // self.line.microbatches
        for slack in _SLACKS:
            if not self.try_all(self.plans(self.bound[0] + int(slack * period))):
                return

    def tighten(self):
        improved = True
        while improved and not self.done():
            before = self.cost
            gap = before[0] - self.bound[0]
            for share in _SHARES:
                self.try_all(self.plans(self.bound[0] + int(share * gap)))
            improved = self.cost < before

    def done(self):
        return self.ops_left < 0 or self.cost <= self.bound

    def try_all(self, plans):
        for plan in plans:
            self.attempt(plan)
            if self.done():
                return False
        return True

    def attempt(self, plan):
        self.tries += 1
        self.ops_left -= self.kinds.size
        ranks = self.ranks
        ranks["most_idle"] = self.cost[0] + self.origins[0] - self.busy_end
        ranks["warmup"], ranks["promised"], ranks["idle"] = plan.warmup, plan.promised, plan.idle
        if not build(ranks, self.kinds, self.end, plan.latest, self.line.hop, plan.patience, plan.yielding):
            return False
        return self.keep(self.kinds, plan)

    def keep(self, kinds, plan):
        cost = tuple(int((self.ranks["clock"] - o).max()) for o in self.origins)
        if cost >= self.cost:
            return False
        self.cost, self.plan, self.best = cost, plan, kinds.copy()
        return True

    def plans(self, target):
        line = self.line
        idle = np.maximum(0, target + self.origins[0] - self.busy_end)
        latest = _latest_input_grads(line, idle)
        for warmup in _warmups(line, idle):
            promises = [np.ones_like(warmup)]
            below = np.append(warmup[1:], 1)
            if ((below == warmup) & (warmup > 1)).any():
                promises.append(below)
            for promised in promises:
                for patience in _PATIENCES:
                    for yielding in (True, False):
                        yield Plan(warmup, promised, idle, latest, patience, yielding)

    def climb(self):
        improved = True
        while improved and not self.done():
            before = self.cost
            self.try_all(self.neighbours())
            improved = self.cost < before

    def neighbours(self):
        p = self.line.ranks
        for r in range(p):
            for shift in (1, -1, 2, -2):
                for reach in (1, 2, p):
                    for patience in _PATIENCES:
                        plan = self.plan
                        w = plan.warmup.copy()
                        w[slice(max(0, r - reach + 1), r + 1) if shift > 0 else slice(r, r + reach)] += shift
                        w = np.clip(w, 1, self.line.most_forwards)
                        if (w != plan.warmup).any():
                            yield plan._replace(warmup=w, patience=patience)

    def polish(self):
        if self.cost[0] <= self.bound[0]:
            return
        tries = int(_POLISHED_OPS * self.effort) // self.kinds.size
        goal = self.bound[0] + self.origins[0]
        kinds = self.best.reshape(self.line.ranks, -1)
        out = polish(self.ranks, kinds, goal, self.line.hop, int(_MARGIN * self.bound[0]), tries)
        from pipesim.schedules.weight_filling.polish import _cost

        _cost(self.ranks, out, self.end, goal, self.line.hop)
        self.keep(out.ravel(), self.plan)


_FAR = np.iinfo(np.int64).max // 4


def _records(line: Line):
    ranks = np.zeros(line.ranks, RANK)
    for name in ("forward", "input_grad", "weight_grad", "first", "whole", "part", "capacity"):
        ranks[name] = getattr(line, name)
    return ranks


def _warmups(line, idle) -> list[Counts]:
    """Different ways to let the warm-up shrink from rank to rank."""
    natural = warmup_counts(line, idle)[0]
    linear = 1 + (natural[0] - 1) * line.below / max(1, line.below[0])
    options = (np.minimum(natural, np.ceil(linear)), np.minimum(natural, np.floor(linear)), natural)
    return list({o.astype(np.int64).tobytes(): o.astype(np.int64) for o in options}.values())


def _latest_input_grads(line, idle):
    i = np.arange(line.microbatches)
    own = (line.first + idle)[:, None] + np.outer(line.input_grad + line.weight_grad, i)
    own += np.minimum(line.microbatches, i + line.most_forwards[:, None]) * line.forward[:, None]
    up = np.cumsum(line.input_grad + line.hop)[:, None]
    return np.minimum.accumulate(own + up, axis=0) - up
