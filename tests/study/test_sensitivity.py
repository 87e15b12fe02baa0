"""What the critical path promises is what simulating again gives, or more where the path changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from replay import UNIT, costs
from whole_steps import program_of, steps

import pipesim
from pipesim.engine import compiled, fifo
from pipesim.lowering.bind import bind, traffic
from pipesim.lowering.lower import lower
from pipesim.metrics.critical import critical_chain
from pipesim.result import Result
from pipesim.study.sensitivity import sensitivities


def result(name, forward, backward, hop=0, network="ideal", **times):
    """Backwards have equal halves; all times in picoseconds."""
    program = program_of(name)
    half = np.asarray(backward) / 2
    priced = costs(program, forward, half, half, hop)
    extra = {key: np.full(program.placement.stages, value * UNIT) for key, value in times.items()}
    priced = replace(priced, times=replace(priced.times, **extra))
    graph = bind(lower(program, priced), priced)
    timeline = compiled.run(graph) if network == "ideal" else fifo.run(graph, traffic(graph, priced))
    return Result({}, timeline, priced)


def picoseconds(rows):
    return {row.what: tuple(round(value / UNIT) for value in (row.first_order_s, row.gain_s)) for row in rows}


def test_gpipe_by_hand():
    """P=4, M=8, F=30, B=80, hops of 20: eleven forwards, eleven backwards and six hops are in a row."""
    found = picoseconds(sensitivities(result("gpipe", 30, 80, 20)))
    assert (found["forward"], found["backward"]) == ((33, 33), (88, 88))
    assert found["transfers between ranks"] == (12, 12)


def test_the_slowest_rank_keeps_its_promise():
    """A rank twice as slow as the others stays the slowest: its eight forwards and backwards gain in full."""
    found = picoseconds(sensitivities(result("gpipe", [100, 100, 200, 100], [200, 200, 400, 200])))
    assert found["rank 2"] == (480, 480)


def test_a_rank_that_is_slowest_by_little_breaks_it():
    """10 slower than the others in forward and backward: at 10 % less, others are the slowest."""
    found = picoseconds(sensitivities(result("gpipe", [100, 100, 110, 100], [100, 100, 110, 100])))
    promised, gained = found["rank 2"]
    assert promised == 16 * 11
    # seven steps of each pass save 10, when the others take over; one of each saves the whole 11
    assert gained == 2 * (7 * 10 + 11)


@settings(deadline=None, max_examples=60)
@given(steps)
def test_no_part_gains_more_than_the_path_promises(stepped):
    """The step time is convex in the durations; and nothing gets slower."""
    timeline, priced = stepped
    for row in sensitivities(Result({}, timeline, priced), less=0.3, ranks=4):
        assert 0 <= row.gain_s <= row.first_order_s


@settings(deadline=None, max_examples=60)
@given(steps)
def test_the_critical_chain_adds_up_to_the_step(stepped):
    """Durations of its ops and lags of its dependencies, to the picosecond."""
    timeline, _ = stepped
    nodes, edges = critical_chain(timeline)
    assert timeline.graph.duration[nodes].sum() + timeline.graph.dep_lag[edges].sum() == timeline.makespan


def test_parts_that_take_no_time_are_left_out():
    """No hops, no recomputation, no collectives."""
    assert [row.what for row in sensitivities(result("gpipe", 30, 90))] == [
        "forward",
        "backward",
        "backward for the input",
        "backward for the weights",
        "first stage",
        "last stage",
        *(f"rank {rank}" for rank in range(4)),
    ]


def test_collectives_and_the_optimizer_are_parts():
    """Each appears where it costs something; tensor-parallel time inside ops is taken out of them."""
    step = result("1f1b", 30, 90, recompute=10, reduce_grad=50, unshard=40, optimizer=70)
    names = [row.what for row in sensitivities(step)]
    assert names[4:8] == ["recomputation", "gradient reductions", "weight gathers", "optimizer"]
    inside = replace(step.costs, times=replace(step.costs.times, forward_collective=np.full(4, 10 * UNIT)))
    found = picoseconds(sensitivities(replace(step, costs=inside)))
    assert found["collectives inside ops"] == (11, 11)


def test_only_the_most_critical_ranks_are_simulated():
    """The others have a promise alone; a rank that is not on the path gains nothing, which is known."""
    rows = sensitivities(result("gpipe", [100, 100, 200, 100], [200, 200, 400, 200]), ranks=1)
    gains = {row.what: row.gain_s for row in rows[-4:]}
    assert [name for name, gain in gains.items() if gain is not None] == ["rank 2"]


def test_a_shared_network_is_simulated_as_one():
    """With transfers that queue for ports the step is the queueing engine's."""
    step = result("1f1b", 30, 90, 50, network="fifo")
    found = {row.what: row for row in sensitivities(step)}
    graph = bind(step.raw.graph, replace(step.costs, times=replace(step.costs.times, forward=np.full(4, 27 * UNIT))))
    again = fifo.run(graph, traffic(graph, step.costs))
    assert found["forward"].gain_s == pytest.approx((step.raw.makespan - again.makespan) * UNIT)  # a float division


def test_a_full_backward_keeps_the_share_of_its_overlap():
    """Halves of 50 that overlap by 20 take 80; at 10 % less, 72. Eleven of them are in a row."""
    base = result("gpipe", 30, 100)
    times = replace(base.costs.times, overlap=np.full(4, 20 * UNIT))
    priced = replace(base.costs, times=times)
    step = Result({}, compiled.run(bind(base.raw.graph, priced)), priced)
    assert picoseconds(sensitivities(step))["backward"] == (88, 88)


def test_host_copies_are_a_part():
    """A schedule that hides them behind compute gains nothing from faster ones."""
    config = {
        "pipeline": {"ranks": 4, "microbatches": 16},
        "costs": {"forward": 1, "input_grad": 1, "weight_grad": 1, "offload": 3},
        "schedule": "pipe-offload",
    }
    found = {row.what: row for row in sensitivities(pipesim.simulate(config))}
    hidden = found["copies to host memory and back"]
    assert (hidden.first_order_s, hidden.gain_s) == (0.0, 0.0)
