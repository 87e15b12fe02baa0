"""A structure gives what a full simulation gives, and the cache keeps structures of different shape apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay import UNIT, costs

from pipesim import api
from pipesim.engine import event
from pipesim.engine.batch import Batch
from pipesim.errors import DeadlockError
from pipesim.ir.connect import connect
from pipesim.ir.placement import linear
from pipesim.ir.program import Program
from pipesim.lowering.bind import bind
from pipesim.lowering.lower import Lowering, lower
from pipesim.schedules import Setting, create
from pipesim.study.structure import Structure, StructureCache


def random_costs(program, seed, **fixed):
    """Positive integer costs everywhere, so that all of them have the same shape."""
    rng = np.random.default_rng(seed)
    stages = program.placement.stages
    base = costs(program, *(rng.integers(1, 9, stages) for _ in range(3)), int(rng.integers(0, 5)))
    extra = {name: rng.integers(1, 9, stages) * UNIT for name in ("recompute", "reduce_grad", "optimizer")}
    return replace(base, times=replace(base.times, **{**extra, **fixed}), pair_factor=0.75)


CASES = [("1f1b", {}), ("interleaved-1f1b", {"chunks": 2}), ("chimera", {}), ("dualpipe", {}), ("zb-h1", {})]


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("p2p", ["overlapped", "blocking"])
def test_rebinding_gives_what_a_new_graph_gives(name, options, p2p):
    """Ends of all ops and the makespan are those of lowering and binding anew, on the event engine."""
    program, lowering = create(name, **options).program(Setting(4, 8)), Lowering(p2p=p2p, zero=1)
    structure = Structure(program, random_costs(program, 0), lowering)
    for seed in range(1, 4):
        price = random_costs(program, seed)
        fresh = event.run(bind(lower(program, price, lowering), price))
        assert structure.run(price).end.tolist() == fresh.end.tolist()
        assert structure.makespan(price) == fresh.makespan


@pytest.mark.parametrize("p2p", ["overlapped", "blocking"])
def test_links_and_messages_can_change_alone_and_back(p2p):
    """Lags are kept while links and messages stay the same ones, and made anew when either is another."""
    program, lowering = create("1f1b").program(Setting(4, 8)), Lowering(p2p=p2p)
    first = random_costs(program, 1)
    message = np.full(4, 3.0)
    slower = replace(first, hops=replace(first.hops, seconds_per_byte=np.full((4, 4), float(UNIT))))
    larger = replace(slower, sizes=replace(slower.sizes, message=message))
    structure = Structure(program, first, lowering)
    for price in (first, slower, larger, slower, first, replace(first, times=random_costs(program, 2).times)):
        fresh = event.run(bind(lower(program, price, lowering), price))
        assert structure.run(price).end.tolist() == fresh.end.tolist()
    assert structure.makespan(first) < structure.makespan(larger)


def test_costs_of_another_shape_are_refused():
    """Without recomputation the step has fewer ops, so its structure is another."""
    program = create("1f1b").program(Setting(3, 4))
    structure = Structure(program, random_costs(program, 0))
    with pytest.raises(ValueError, match="other recomputations"):
        structure.run(random_costs(program, 0, recompute=np.zeros(3)))


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(CASES), st.integers(1, 20), st.booleans(), st.integers(0, 10**6))
def test_a_batch_is_the_makespan_of_every_row(case, rows, own_lags, seed):
    """Whatever the number of rows (vector lanes full or not), shared lags or one row of lags each."""
    rng = np.random.default_rng(seed)
    program = create(case[0], **case[1]).program(Setting(4, 8))
    structure = Structure(program, random_costs(program, 0))
    duration, lag = structure.durations(random_costs(program, seed))
    lag = np.maximum(lag, 0)
    durations = duration + rng.integers(0, 5, (rows, len(duration)))
    lags = lag + rng.integers(0, 5, (rows, len(lag))) if own_lags else lag
    every = np.broadcast_to(lags, (rows, len(lag)))
    expected = [event.run(structure.graph.bound(d, g)).end.max() for d, g in zip(durations, every, strict=True)]
    assert structure.makespans(durations, lags).tolist() == expected


def test_a_batch_over_a_deadlock_says_what_each_rank_waits_for():
    """As the engines do."""
    program = Program.from_orders(linear(2), [["0F0", "0B1", "0F1", "0B0"], ["1F0", "1B0", "1F1", "1B1"]])
    with pytest.raises(DeadlockError, match="rank 0 cannot start 0B1"):
        Batch(connect(program))


def plan_of(schedule="1f1b", ranks=4, microbatches=8, forward=1.0, p2p="overlapped", **options):
    return api.plan({
        "pipeline": {"ranks": ranks, "microbatches": microbatches},
        "costs": {"forward": forward, "p2p": 0.25},
        "schedule": {"name": schedule, **options},
        "simulation": {"p2p": p2p},
    })  # fmt: skip


def test_the_cache_tells_structures_apart():
    """Other durations share a structure; another schedule, size, option or kind of transfer does not."""
    cache = StructureCache(10)
    first = cache.of(plan_of())
    assert cache.of(plan_of(forward=3.0)) is first
    others = [
        plan_of("gpipe"),
        plan_of(ranks=8),
        plan_of(microbatches=9),
        plan_of(p2p="blocking"),
        plan_of("interleaved-1f1b", chunks=1),
        plan_of("interleaved-1f1b", chunks=2),
    ]
    assert len({id(cache.of(plan)) for plan in (plan_of(), *others)}) == 7


def test_a_schedule_that_looks_at_costs_has_a_structure_per_costs():
    """Automatic zero-bubble orders ops by their durations."""
    cache = StructureCache(10)
    first = cache.of(plan_of("zb-auto"))
    assert cache.of(plan_of("zb-auto")) is first
    assert cache.of(plan_of("zb-auto", forward=5.0)) is not first
    assert len(cache) == 2


def test_the_cache_forgets_what_was_not_used_longest():
    """Two fit: using the first again drops the second for the third."""
    cache = StructureCache(2)
    first, second = cache.of(plan_of()), cache.of(plan_of("gpipe"))
    cache.of(plan_of())
    cache.of(plan_of(ranks=8))
    assert len(cache) == 2
    assert cache.of(plan_of()) is first
    assert cache.of(plan_of("gpipe")) is not second


@pytest.mark.parametrize("schedule", ["1f1b", "zb-auto", "interleaved-1f1b"])
def test_a_cached_structure_gives_the_step_time_of_a_simulation(schedule):
    """In seconds, to the picosecond."""
    cache = StructureCache(4)
    for forward in (1.0, 2.5):
        plan = plan_of(schedule, forward=forward)
        expected = api.simulate_plan(plan).metrics["step_time_s"]
        assert cache.of(plan).makespan(plan.costs) / 1e12 == expected
