"""Bubble measures, breakdown, critical path and memory follow their definitions, exactly."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from replay import UNIT, costs
from replay import replay as run
from whole_steps import NAMES, program_of, step, steps

from pipesim.costs.costs import StageSizes
from pipesim.engine import event
from pipesim.ir.op import Kind
from pipesim.lowering.bind import bind
from pipesim.lowering.lower import lower
from pipesim.lowering.memory import activation_effects
from pipesim.metrics import memory
from pipesim.metrics.breakdown import PARTS, breakdown
from pipesim.metrics.busy import measure
from pipesim.metrics.critical import P2P, amounts, critical_path


def test_bubble_measures_of_1f1b():
    """P=4, M=8, F=1, B=2: C = 33, busy 24 on every rank; the first rank's span is C, so its rate is the same."""
    busy = measure(run(program_of("1f1b")))
    assert (busy.makespan, busy.busy.tolist()) == (33, [24] * 4)
    assert busy.bubble_fraction == 1 - 24 / 33
    assert busy.bubble_overhead == pytest.approx(9 / 24)  # a float division, nothing else
    assert busy.span.tolist() == [33, 30, 27, 24]
    assert busy.span_bubble_fraction == 1 - 24 / 33


def test_recomputation_is_busy_time_and_reported_apart():
    """Busy counts it; `recompute` holds it alone."""
    timeline, _ = step("1f1b", recompute=2)
    busy = measure(timeline)
    assert busy.recompute.tolist() == [16] * 4
    assert busy.busy.tolist() == [8 * (3 + 4 + 5 + 2)] * 4


@settings(deadline=None, max_examples=60)
@given(steps)
def test_the_breakdown_sums_to_the_step_on_every_rank(stepped):
    """Eight parts, none negative, that add up to the step time exactly."""
    timeline, priced = stepped
    parts = breakdown(timeline, priced.times)
    assert tuple(parts) == PARTS
    assert all((value >= 0).all() for value in parts.values())
    assert sum(parts.values()).tolist() == [timeline.makespan] * 4


@settings(deadline=None, max_examples=60)
@given(steps)
def test_the_critical_path_has_no_gap(stepped):
    """Its segments follow each other from the start of the step to its end, and so do the amounts per kind."""
    timeline, _ = stepped
    path = critical_path(timeline)
    assert (path[0].start, path[-1].end) == (timeline.start.min(), timeline.end.max())
    assert all(a.end == b.start for a, b in itertools.pairwise(path))
    assert sum(amounts(timeline, path).values()) == timeline.makespan


def test_breakdown_of_1f1b_by_hand():
    """Rank 3 of P=4, M=4, F=3, B=9 with hops of 2 waits 15 first; then for F2 (39-43) and F3 (55-59).

    Both forwards end on rank 2 two units into the wait: half of it is dependency, half the hop.
    """
    timeline, _ = step("1f1b", 4, hop=2)
    parts = breakdown(timeline)
    assert parts["compute"].tolist() == [48] * 4
    assert parts["warmup"].tolist() == [0, 5, 10, 15]
    assert (parts["exposed_p2p"][3], parts["dependency"][3]) == (4, 4)
    assert parts["drain"].tolist() == [0, 11, 22, 33]


def test_collectives_inside_ops_are_exposed_collectives():
    """Tensor-parallel time inside F leaves compute for exposed_collective; the sum stays."""
    timeline, priced = step("1f1b")
    times = replace(priced.times, forward_collective=np.full(4, 1 * UNIT))
    plain, split = breakdown(timeline), breakdown(timeline, times)
    assert (plain["compute"] - split["compute"]).tolist() == [8] * 4
    assert (split["exposed_collective"] - plain["exposed_collective"]).tolist() == [8] * 4


def test_the_critical_path_names_hops():
    """With hops on the path, p2p is part of it."""
    timeline, _ = step("gpipe", hop=2)
    assert amounts(timeline, critical_path(timeline))[P2P] == 12


def sized(program, **bytes_):
    zero = np.zeros(program.placement.stages)
    names = ("weights", "gradients", "optimizer", "unsharded", "activations", "weight_grad_activations")
    names += ("recomputed", "message", "layerwise")
    return StageSizes(**{name: zero + bytes_.get(name, 0.0) for name in names})


def peak(name, lowering=None, recompute=0, **bytes_):
    program = program_of(name)
    base = costs(program)
    times = replace(base.times, recompute=np.full(program.placement.stages, recompute * UNIT))
    priced = replace(base, times=times, sizes=sized(program, **bytes_))
    timeline = event.run(bind(lower(program, priced, lowering), priced))
    fixed = memory.resident(timeline.graph, priced)
    return memory.peaks(timeline, activation_effects(timeline.graph, priced.sizes), fixed)


def test_activation_peaks_of_1f1b_are_the_staircase():
    """4, 3, 2, 1 micro-batches of 10 bytes, reached when the last warm-up forward starts."""
    found = peak("1f1b", activations=10.0)
    assert found.activations.tolist() == [40, 30, 20, 10]
    assert found.at.tolist() == [3, 3, 3, 3]


def test_recomputation_adds_one_working_set():
    """Checkpoints of all micro-batches in flight, and what one recomputation brings back."""
    found = peak("1f1b", recompute=1, activations=1.0, recomputed=10.0)
    assert found.activations.tolist() == [14, 13, 12, 11]


def test_weights_of_bidirectional_schedules_are_held_twice():
    """Chimera's ranks hold two stages each; so do their gradients and optimizer states."""
    assert peak("chimera", weights=5.0).bytes.tolist() == [10] * 4
    assert peak("1f1b", weights=5.0).bytes.tolist() == [5] * 4


@pytest.mark.parametrize("name", NAMES)
def test_activation_memory_returns_to_its_base(name):
    """What a step takes it gives back, on every rank."""
    timeline, priced = step(name, recompute=1)
    sizes = sized(program_of(name), activations=8.0, weight_grad_activations=4.0, recomputed=2.0)
    effects = activation_effects(timeline.graph, sizes)
    for a, b in zip(timeline.graph.starts[:4], timeline.graph.starts[1:5], strict=True):
        assert effects.takes[a:b].sum() == effects.gives[a:b].sum() > 0
    assert priced.times.recompute.all()


@pytest.mark.parametrize("name", NAMES)
def test_the_memory_curve_peaks_where_the_peak_is(name):
    """The step curve's maximum is the peak, and it ends at zero."""
    timeline, _ = step(name)
    effects = activation_effects(timeline.graph, sized(program_of(name), activations=8.0, weight_grad_activations=4.0))
    fixed = memory.Resident(*(np.zeros(4) for _ in range(4)))
    tops = memory.peaks(timeline, effects, fixed)
    for rank in range(4):
        _, level = memory.curve(timeline, effects, rank)
        assert level.max() == tops.activations[rank]
        assert level[-1] == 0.0


def test_in_flight_counts_chunks_as_fractions():
    """Depth-first with two chunks on four ranks: 11, 9, 7, 5 chunks are 5.5, 4.5, 3.5, 2.5 shares."""
    graph = run(program_of("interleaved-1f1b")).graph
    assert memory.in_flight(graph).tolist() == [5.5, 4.5, 3.5, 2.5]


def test_weight_gradients_keep_their_part_until_w():
    """After I, only the part that W needs stays; after W nothing does."""
    from pipesim.ir.placement import linear
    from pipesim.ir.program import Program

    program = Program.from_orders(linear(1), [["0F0", "0I0", "0F1", "0I1", "0W0", "0W1"]])
    timeline = run(program)
    effects = activation_effects(timeline.graph, sized(program, activations=10.0, weight_grad_activations=4.0))
    assert memory.during(effects, 0, 6).tolist() == [10, 10, 14, 14, 8, 4]
    assert timeline.graph.kind[4] == Kind.W
