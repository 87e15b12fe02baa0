"""Which layers make up each stage so that the slowest rank is as fast as possible and every rank fits in memory.

Pieces (the embedding, every layer, the head) are cut into consecutive stages of at least one piece each. Of two
partitions the better one has, in this order: less memory beyond what ranks have room for, on the rank where that is
most; a less busy busiest rank; a smaller sum of squares over ranks; a faster slowest stage; a smaller sum of squares
over stages.

Where every rank runs one stage, dynamic programming finds an optimal partition in all of this: a rank's memory and time
then depend on the two ends of its own stage alone. Where ranks run several stages, they depend on all cuts together.
The search then starts from partitions into equally many pieces and into equally long stages, and moves one piece at a
time out of a stage of the worst rank, or out of the slowest one, into any other stage, shifting everything in between,
as long as that is better. With layers all alike and memory to spare, the busiest rank is then as fast as it can be: if
it cannot give a piece away, then any partition keeps some rank as busy. Otherwise the result is a local optimum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.holding import Held

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pieces:
    """What stages are made of, arrays of shape (U,): the time of one micro-batch in picoseconds, and bytes.

    ``state`` stays; ``kept`` is what the forward of one micro-batch leaves until the backward, ``late`` what then
    stays until the weight gradient; ``gathered`` are whole weights where ranks keep pieces of them (ZeRO-3).
    """

    time: Ints
    state: Floats
    kept: Floats
    late: Floats
    gathered: Floats

    def __len__(self) -> int:
        return len(self.time)


@dataclass(frozen=True, eq=False)
class Pipeline:
    """Where stages go. ``share`` (P, S): how many of some number of micro-batches each rank runs each stage for.
    ``held``: per rank. ``room`` (P,): bytes for what is in `Pieces`. ``gathered_stages``: whole stages of weights that
    a rank with several gathers at a time, or layers where it has one.
    """

    share: Ints
    held: Sequence[Held]
    room: Floats
    gathered_stages: int = 2

    @property
    def stages(self) -> int:
        """Number of stages S."""
        return int(self.share.shape[1])

    @property
    def one_each(self) -> bool:
        """Whether every rank runs a single stage, and every stage has a rank of its own."""
        runs = self.share > 0
        return bool((runs.sum(axis=0) == 1).all() and (runs.sum(axis=1) == 1).all())


class Balanced(NamedTuple):
    """The cuts (S + 1,) between stages, the first 0 and the last U, and the bytes missing on the fullest rank."""

    cuts: Ints
    missing: float


def balance(pieces: Pieces, pipeline: Pipeline) -> Balanced:
    """The best partition; see above for what is best, and where that is exact.

    Raises:
        ValueError: there are fewer pieces than stages.
    """
    if len(pieces) < pipeline.stages:
        raise ValueError(f"{len(pieces)} pieces do not make {pipeline.stages} stages")
    return _by_programming(pieces, pipeline) if pipeline.one_each else _by_moves(pieces, pipeline)


def _sums(values: NDArray[np.float64] | Ints) -> Floats:
    """Sums of the first 0, 1, ... values."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


# One stage per rank ------------------------------------------------------------------------------------------
#
# Tables of shape (S, W, W) have an entry for every stage, first piece and end that leave a piece for each other stage:
# stage s starts at one of the pieces s, ..., s + W - 1 and ends before one of s + 1, ..., s + W, with W = U - S + 1.


def _by_programming(pieces: Pieces, pipeline: Pipeline) -> Balanced:
    """Cuts by dynamic programming: the least missing memory, within it the least time, within that the most even."""
    time, possible = _between(pieces.time, pipeline.stages), _possible(len(pieces), pipeline.stages)
    missing = _missing_between(pieces, pipeline)
    least, allowed = 0.0, possible & (missing <= 0)
    if _best(allowed, time, np.maximum) is None:
        least = _value(possible, missing, np.maximum)
        allowed = possible & (missing <= least)
    return Balanced(_fastest(allowed, time), least)


def _fastest(allowed: NDArray[np.bool_], time: Floats) -> Ints:
    """The allowed partition whose slowest stage is fastest, and of several the one with the least sum of squares."""
    slowest = _value(allowed, time, np.maximum)
    found = _best(allowed & (time <= slowest), (time / max(slowest, 1.0)) ** 2, np.add)
    assert found is not None
    return found[1]


def _between(values: NDArray[np.float64] | Ints, stages: int) -> Floats:
    """Sums of consecutive pieces, (S, W, W)."""
    sums, width = _sums(values), len(values) - stages + 1
    windows = np.lib.stride_tricks.sliding_window_view(sums, width)
    between: Floats = windows[1:, None, :] - windows[:-1, :, None]
    return between


def _possible(pieces: int, stages: int) -> NDArray[np.bool_]:
    """Ends that come after the first piece, (S, W, W)."""
    width = pieces - stages + 1
    return np.broadcast_to(np.triu(np.ones((width, width), bool)), (stages, width, width))


def _missing_between(pieces: Pieces, pipeline: Pipeline) -> Floats:
    """Bytes that the rank of each stage lacks, (S, W, W)."""
    rank = pipeline.share.argmax(axis=0)
    room = pipeline.room[rank][:, None, None]
    state, kept, late, gathered = (
        _between(each, pipeline.stages) for each in (pieces.state, pieces.kept, pieces.late, pieces.gathered)
    )
    if (room == np.inf).all():
        return np.zeros_like(state)
    most = np.zeros_like(kept)
    for whole, rest in _moments([pipeline.held[each] for each in rank]):
        np.maximum(most, whole * kept + rest * late, out=most)
    layers = np.maximum(_between(np.ones(len(pieces)), pipeline.stages), 1.0)
    gathered *= np.minimum(1.0, pipeline.gathered_stages / layers)
    lacking: Floats = np.maximum(state + most + gathered - room, 0.0)
    return lacking


def _moments(held: Sequence[Held]) -> Iterable[tuple[Floats, Floats]]:
    """The fullest moments of ranks with one stage each, one after the other: counts of shape (S, 1, 1)."""
    for moment in range(max(len(each.whole) for each in held)):
        at = [min(moment, len(each.whole) - 1) for each in held]
        whole, late = (
            np.array([column[i, 0] for column, i in zip(columns, at, strict=True)], np.float64)
            for columns in ([each.whole for each in held], [each.late for each in held])
        )
        yield whole[:, None, None], late[:, None, None]


def _value(allowed: NDArray[np.bool_], cost: Floats, join: np.ufunc) -> float:
    found = _best(allowed, cost, join)
    assert found is not None
    return found[0]


def _best(allowed: NDArray[np.bool_], cost: Floats, join: np.ufunc) -> tuple[float, Ints] | None:
    """The partition with the least sum (or maximum, as ``join`` says) of the costs (S, W, W) of its stages, and that.

    None when no partition is allowed.
    """
    cost = np.where(allowed, cost, np.inf)
    stages, width, _ = cost.shape
    first, columns = np.empty((stages, width), np.int64), np.arange(width)
    best = np.full(width, np.inf)
    best[0] = 0.0
    for stage in range(stages):
        joined = join(best[:, None], cost[stage])
        first[stage] = joined.argmin(axis=0)
        best = joined[first[stage], columns]
    if not np.isfinite(best[-1]):
        return None
    place, cuts = width - 1, [stages + width - 1]
    for stage in reversed(range(stages)):
        place = int(first[stage, place])
        cuts.append(stage + place)
    return float(best[-1]), np.array(cuts[::-1], np.int64)


# Several stages per rank -------------------------------------------------------------------------------------


def _by_moves(pieces: Pieces, pipeline: Pipeline) -> Balanced:
    """The best of two partitions and of the local optima that they lead to: on the way to less missing on all ranks
    together, the busiest rank can get busier without less missing on the fullest.
    """
    judge, starts = _Judge(pieces, pipeline), list(_starts(pieces, pipeline.stages))
    ends = np.stack([*map(judge.improved, starts), *starts])
    missing = judge.missing(ends).max(axis=1)
    best = _first_best(np.column_stack([missing, judge.times(ends)]))
    return Balanced(ends[best], float(missing[best]))


def _starts(pieces: Pieces, stages: int) -> Iterable[Ints]:
    """Cuts into stages of equally many pieces, and into stages whose slowest is as fast as possible."""
    yield np.arange(stages + 1) * len(pieces) // stages
    yield _fastest(_possible(len(pieces), stages), _between(pieces.time, stages))


_AT_ONCE = 16
"""Partitions whose memory is worked out together, in the order in which they are wanted."""


@dataclass(frozen=True, eq=False)
class _Judge:
    """Partitions compared, many at a time: ``cuts`` has shape (K, S + 1)."""

    pieces: Pieces
    pipeline: Pipeline

    def improved(self, cuts: Ints) -> Ints:
        """What moves lead to from a partition: first towards memory, then towards time without losing memory."""
        while (better := self._roomier(cuts)) is not None or (better := self._faster(cuts)) is not None:
            cuts = better
        return cuts

    def times(self, cuts: Ints) -> Floats:
        """What is compared after memory, first things first, shape (K, 4)."""
        stage = self._stage_times(cuts)
        rank = stage @ self._share.T
        return np.column_stack([rank.max(axis=1), _even(rank), stage.max(axis=1), _even(stage)])

    def missing(self, cuts: Ints) -> Floats:
        """Bytes that every rank lacks, shape (K, P)."""
        room = self.pipeline.room
        if (room == np.inf).all():
            return np.zeros((len(cuts), len(room)))
        state, kept, late, gathered = (
            np.diff(self._sums[name][cuts], axis=1) for name in ("state", "kept", "late", "gathered")
        )
        needed = np.empty((len(cuts), len(room)))
        for rank, (stages, whole, rest) in enumerate(self.pipeline.held):
            active = (kept[:, stages] @ whole.T + late[:, stages] @ rest.T).max(axis=1, initial=0.0)
            buffers = self.pipeline.gathered_stages * gathered[:, stages].max(axis=1, initial=0.0)
            needed[:, rank] = state[:, stages].sum(axis=1) + active + buffers
        return np.maximum(needed - room, 0.0)

    def _roomier(self, cuts: Ints) -> Ints | None:
        """The move that gives the rank that lacks most what it needs most, if there is one."""
        lacking = self.missing(cuts[None])[0]
        if not lacking.any():
            return None
        moves = self._moves(cuts, np.flatnonzero(self.pipeline.share[lacking.argmax()]))
        tried = np.concatenate([cuts[None], moves])
        best = _first_best(self._lack(tried))
        return tried[best] if best else None

    def _faster(self, cuts: Ints) -> Ints | None:
        """The move that brings most, of those after which no more is missing than now."""
        stage = self._stage_times(cuts[None])
        busiest = int((stage @ self._share.T)[0].argmax())
        worst = np.union1d(np.flatnonzero(self.pipeline.share[busiest]), stage[0].argmax(keepdims=True))
        tried = np.concatenate([cuts[None], self._moves(cuts, worst)])
        order = np.lexsort(self.times(tried).T[::-1])
        wanted = order[: int(np.flatnonzero(order == 0)[0])]
        most = self._lack(cuts[None])
        for start in range(0, len(wanted), _AT_ONCE):
            some = tried[wanted[start : start + _AT_ONCE]]
            fits = np.flatnonzero((self._lack(some) <= most).all(axis=1))
            if len(fits):
                chosen: Ints = some[fits[0]]
                return chosen
        return None

    def _lack(self, cuts: Ints) -> Floats:
        """Missing bytes on the rank that lacks most, and on all together, shape (K, 2)."""
        missing = self.missing(cuts)
        return np.column_stack([missing.max(axis=1), missing.sum(axis=1)])

    def _moves(self, cuts: Ints, givers: Ints) -> Ints:
        """Partitions in which one of some stages has a piece less and any other one more."""
        stages = self.pipeline.stages
        inner = np.arange(1, stages)
        pairs = [(giver, taker) for giver in givers.tolist() for taker in range(stages) if taker != giver]
        give, take = np.array(pairs, np.int64).reshape(-1, 2).T[:, :, None]
        right = (inner > give) & (inner <= take)
        left = (inner <= give) & (inner > take)
        moved = np.tile(cuts, (len(pairs), 1))
        moved[:, 1:-1] += left.astype(np.int64) - right
        return moved[(np.diff(moved, axis=1) > 0).all(axis=1)]

    def _stage_times(self, cuts: Ints) -> Floats:
        return np.diff(self._sums["time"][cuts], axis=1)

    @cached_property
    def _share(self) -> Floats:
        return self.pipeline.share.astype(np.float64)

    @cached_property
    def _sums(self) -> dict[str, Floats]:
        return {name: _sums(getattr(self.pieces, name)) for name in ("time", "state", "kept", "late", "gathered")}


def _even(loads: Floats) -> Floats:
    """Sums of squares, (K,), of loads in units of their mean; rounded, so that equal ones are equal."""
    squares: Floats = ((loads / max(float(loads.mean()), 1.0)) ** 2).sum(axis=1).round(9)
    return squares


def _first_best(scores: Floats) -> int:
    """The first of the rows that are least, compared entry by entry."""
    return int(np.lexsort(scores.T[::-1])[0])
