"""Balanced partitions are the best there are where that is promised, and never worse than an even one."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipesim.ir.holding import Held, fullest
from pipesim.schedules import Setting, create
from pipesim.workload.balance import Pieces, Pipeline, balance

ONE = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
LOOPED = [[1, 0, 1, 0], [0, 1, 0, 1]]
VEE = [[1, 0, 0, 1], [0, 1, 1, 0]]
BOTH_WAYS = [[1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]]


def pieces_of(times, seed=0, gathered=False):
    """Pieces with these times and random sizes of a few bytes."""
    rng, count = np.random.default_rng(seed), len(times)
    sizes = [rng.integers(1, 6, count).astype(float) for _ in range(4)]
    sizes[3] *= gathered
    return Pieces(np.array(times, np.int64), *sizes)


def pipeline_of(share, seed=0, room=np.inf):
    """Ranks with random counts of micro-batches in flight at two moments, and equal room."""
    rng, share = np.random.default_rng(seed), np.array(share, np.int64)
    held = []
    for row in share:
        stages = np.flatnonzero(row)
        whole, late = rng.integers(0, 4, (2, len(stages))), rng.integers(0, 3, (2, len(stages)))
        held.append(Held(stages, whole, late))
    return Pipeline(share, held, np.full(len(share), float(room)))


def judged(pieces, pipeline, cuts):
    """Missing bytes of the fullest rank, time of the busiest, sum of squares of ranks' times; by definition."""
    cuts = np.array(cuts)

    def stages(values):
        return np.array([values[a:b].sum() for a, b in itertools.pairwise(cuts)])

    busy = pipeline.share @ stages(pieces.time)
    missing = [0.0]
    for rank, (held, whole, late) in enumerate(pipeline.held):
        gathered, layers = stages(pieces.gathered)[held], np.diff(cuts)[held]
        buffer = 2 * gathered.max() if len(held) > 1 else (gathered * np.minimum(1, 2 / layers))[0]
        active = (whole @ stages(pieces.kept)[held] + late @ stages(pieces.late)[held]).max()
        missing.append(stages(pieces.state)[held].sum() + active + buffer - pipeline.room[rank])
    return max(missing), int(busy.max()), int((busy**2).sum())


def every(count, stages):
    """All cuts into stages of at least one piece."""
    return [(0, *inner, count) for inner in itertools.combinations(range(1, count), stages - 1)]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 20), min_size=3, max_size=9),
    st.one_of(st.just(np.inf), st.integers(5, 60)),
    st.integers(0, 10**6),
    st.booleans(),
)
def test_with_one_stage_per_rank_no_partition_is_better(times, room, seed, gathered):
    """Against all partitions: least missing memory, then the fastest slowest rank, then the most even."""
    pieces, pipeline = pieces_of(times, seed, gathered), pipeline_of(ONE, seed, room)
    found = balance(pieces, pipeline)
    expected = min(judged(pieces, pipeline, cuts) for cuts in every(len(times), 3))
    assert judged(pieces, pipeline, found.cuts) == pytest.approx(expected, abs=1e-9)
    assert found.missing == pytest.approx(expected[0], abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([LOOPED, VEE, BOTH_WAYS]),
    st.integers(2, 9),
    st.integers(1, 9),
    st.integers(0, 9),
    st.integers(0, 30),
)
def test_equal_layers_leave_the_busiest_rank_as_fast_as_it_can_be(share, layers, layer, embedding, head):
    """Several stages per rank, on one route or on two, whatever the ends cost on top."""
    pieces, pipeline = pieces_of([embedding, *[layer] * layers, head]), pipeline_of(share)
    found = judged(pieces, pipeline, balance(pieces, pipeline).cuts)
    assert found[1] == min(judged(pieces, pipeline, cuts)[1] for cuts in every(layers + 2, 4))


@example(BOTH_WAYS, [1] * 8, 5, 8)  # nothing fits: less is missing on all ranks together, not on the fullest
@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([LOOPED, VEE, BOTH_WAYS]),
    st.lists(st.integers(1, 20), min_size=4, max_size=12),
    st.one_of(st.just(np.inf), st.integers(5, 90)),
    st.integers(0, 10**6),
)
def test_unequal_layers_are_never_balanced_worse_than_evenly(share, times, room, seed):
    """In memory, and where that is the same in the time of the busiest rank."""
    pieces, pipeline = pieces_of(times, seed), pipeline_of(share, seed, room)
    found = balance(pieces, pipeline)
    even = judged(pieces, pipeline, np.arange(5) * len(times) // 4)
    missing, busy, _ = judged(pieces, pipeline, found.cuts)
    assert found.missing == pytest.approx(missing, abs=1e-9)
    assert (round(missing, 6), busy) <= (round(even[0], 6), even[1])


def test_memory_goes_before_time():
    """Rank 0 holds three micro-batches and has room for one piece of them: the others take what is left.

    With room for 2 bytes, rank 0 lacks one, rank 1 (2 pieces of 2 micro-batches) two and rank 2 one.
    """
    pieces = Pieces(np.full(6, 10), np.zeros(6), np.ones(6), np.zeros(6), np.zeros(6))
    held = [Held(np.array([r]), np.array([[3 - r]]), np.array([[0]])) for r in range(3)]
    tight = Pipeline(np.eye(3, dtype=np.int64), held, np.full(3, 4.0))
    assert balance(pieces, tight) == (pytest.approx([0, 1, 3, 6]), 0.0)
    tighter = Pipeline(np.eye(3, dtype=np.int64), held, np.full(3, 2.0))
    assert balance(pieces, tighter) == (pytest.approx([0, 1, 3, 6]), 2.0)


def test_too_few_pieces_are_refused():
    with pytest.raises(ValueError, match="2 pieces do not make 3 stages"):
        balance(pieces_of([1, 1]), pipeline_of(ONE))


@pytest.mark.parametrize(("name", "options", "ranks"), [("1f1b", {}, 64), ("interleaved-1f1b", {"chunks": 4}, 16)])
def test_126_layers_on_64_stages_take_less_than_50_milliseconds(name, options, ranks):
    """CPU time, the best of five; about 20 to 35 on the machine of the README."""
    program = create(name, **options).program(Setting(ranks, 64))
    share = np.zeros((ranks, 64), np.int64)
    share[program.placement.rank_of[0], np.arange(64)] = 1
    pieces = Pieces(np.array([2, *[30] * 126, 45]), np.full(128, 3e9), np.full(128, 1e8), np.zeros(128), np.zeros(128))
    pipeline = Pipeline(share, fullest(program), np.full(ranks, 128 / ranks * 5e9))
    spent = []
    for _ in range(5):
        begin = time.process_time()
        balance(pieces, pipeline)
        spent.append(time.process_time() - begin)
    assert min(spent) < 0.05
