"""Extrapolated steps are the fully evaluated ones, in every number; what does not repeat is not extrapolated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay import UNIT, costs

from pipesim import api
from pipesim.engine import compiled
from pipesim.extrapolation import extrapolate
from pipesim.lowering.bind import bind
from pipesim.lowering.lower import Lowering, lower
from pipesim.metrics.cycles import growth, split_step
from pipesim.metrics.summary import summarize
from pipesim.schedules import Setting, create

PERIODIC = [
    ("1f1b", {}),
    ("interleaved-1f1b", {"chunks": 2}),
    ("interleaved-1f1b", {"chunks": 3, "group_size": 6}),
    ("zb-h1", {}),
    ("zb-h2", {}),
    ("dualpipe", {}),
    ("dualpipe-v", {}),
    ("chimera", {}),
    ("bitpipe", {}),
    ("hanayo", {}),
]


def priced(program, seed, extras):
    """Random integer costs, far from equal; ``extras`` switches recomputation, collectives and optimizer on."""
    rng, stages = np.random.default_rng(seed), program.placement.stages
    base = costs(program, *(rng.integers(0, 9, stages) for _ in range(3)), int(rng.integers(0, 5)))
    names = ("recompute", "reduce_grad", "unshard", "optimizer") if extras else ()
    times = replace(base.times, **{name: rng.integers(1, 9, stages) * UNIT for name in names})
    sizes = replace(base.sizes, activations=rng.random(stages), weight_grad_activations=np.zeros(stages))
    return replace(base, times=times, sizes=sizes)


class Step:
    """A schedule on four ranks with fixed costs and lowering, for any number of micro-batches."""

    def __init__(self, name, options, seed, extras, lowering):
        self.schedule, self.lowering = create(name, **options), lowering
        self.costs = priced(self.schedule.program(Setting(4, 24)), seed, extras)

    def graph(self, microbatches):
        self.schedule.check(4, microbatches)
        return bind(lower(self.schedule.program(Setting(4, microbatches)), self.costs, self.lowering), self.costs)

    def full(self, microbatches):
        return summarize(compiled.run(self.graph(microbatches)), self.costs)

    def extrapolated(self, microbatches):
        def summary(timeline):
            return summarize(timeline, self.costs)

        return extrapolate(self.schedule, 4, microbatches, self.graph, compiled.run, summary)


steps = st.builds(
    lambda case, *rest: Step(*case, *rest),
    st.sampled_from(PERIODIC),
    st.integers(0, 10**6),
    st.booleans(),
    st.builds(Lowering, p2p=st.sampled_from(["overlapped", "blocking"]), zero=st.integers(0, 3)),
)


@settings(deadline=None, max_examples=60)
@given(steps, st.sampled_from([192, 240, 480]))
def test_extrapolation_is_the_full_evaluation(step, microbatches):
    """Step time, busy times, breakdown, memory peaks and critical path, whatever the costs and the lowering."""
    found = step.extrapolated(microbatches)
    if found is not None:
        assert found.timeline.graph.microbatches < microbatches
        assert found.summary.same(step.full(microbatches))


@pytest.mark.parametrize(("name", "options"), PERIODIC)
@pytest.mark.parametrize("extras", [False, True])
def test_periodic_schedules_are_extrapolated(name, options, extras):
    """A steady state is found for them, so that the test above is not empty."""
    assert Step(name, options, 1, extras, Lowering()).extrapolated(480) is not None


@pytest.mark.parametrize("name", ["gpipe", "breadth-first"])
def test_schedules_without_a_steady_state_are_not_extrapolated(name):
    """Their forwards and backwards both grow: no single place where a cycle is inserted."""
    assert Step(name, {}, 1, False, Lowering()).extrapolated(480) is None


def test_a_step_that_is_still_warming_up_is_not_taken_for_steady():
    """Rank 0 is slowest but its queue hides it until rank 1 has worked off its lead: growth is found only later."""
    step = Step("1f1b", {}, 0, False, Lowering())
    zero, slow = np.zeros(4), np.array([1000.0, 999.0, 1.0, 1.0]) * UNIT
    times = replace(step.costs.times, forward=zero, input_grad=slow[::-1].copy(), weight_grad=zero)
    step.costs = replace(step.costs, times=times)
    for microbatches in (8, 16, 32):
        split = split_step(step.graph(microbatches), step.graph(microbatches + 1))
        found = growth(split, compiled.run(split.graph))
        if found is not None:
            more = step.full(microbatches + 101).busy.step - step.full(microbatches + 1).busy.step
            assert more * found.cycles == 100 * found.picoseconds


def config(microbatches, extrapolated, **simulation):
    return {
        "pipeline": {"ranks": 4, "microbatches": microbatches},
        "costs": {"forward": [1, 2, 1, 1], "input_grad": 1.5, "weight_grad": 1, "p2p": 0.3},
        "schedule": {"name": "1f1b"},
        "simulation": {"extrapolate": extrapolated, **simulation},
    }


@pytest.mark.parametrize("engine", ["event", "compiled"])
def test_the_option_changes_the_result_only_by_a_note(engine):
    """All metrics are equal; the note says from how many micro-batches."""
    full, short = (api.simulate(config(500, on, engine=engine)).metrics for on in (False, True))
    assert full.pop("warnings") == []
    assert "extrapolated from 17 micro-batches" in short.pop("warnings")[0]
    del full["config"], short["config"]
    assert short == full


def test_a_million_microbatches():
    """Growth per micro-batch is the slowest rank's time, exactly, from a thousand to a million."""
    few, many = (api.simulate(config(m, True)).metrics["step_time_s"] for m in (1000, 10**6))
    assert many - few == pytest.approx(999_000 * 4.5, rel=1e-15)  # two roundings to float seconds


def test_shared_links_are_not_extrapolated():
    """With transfers in queues the past matters in more ways than the ends of ops."""
    result = api.simulate(config(200, True, network="fifo"))
    assert "not extrapolated" in result.metrics["warnings"][0]
    assert result.raw.graph.microbatches == 200


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [("pipedream", "without a flush"), ({"name": "pipe-offload"}, "copies to the host share links")],
)
def test_what_is_not_extrapolated_says_why(schedule, reason):
    """A steady rate needs no extrapolation; copies to the host meet others."""
    pipeline, simulation = {"ranks": 4, "microbatches": 40}, {"extrapolate": True}
    result = api.simulate({"pipeline": pipeline, "simulation": simulation, "schedule": schedule})
    assert reason in result.metrics["warnings"][0]


@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "zb-auto"},
        {"name": "zb-v"},
        {"name": "v-adaptive", "memory_limit": 1.0, "effort": 0},
        {"name": "v-min", "retime": True, "effort": 0},
    ],
)
def test_orders_that_are_searched_for_are_not_extrapolated(schedule):
    """For more micro-batches the search may end at another order, so nothing follows from shorter steps."""
    costs = {"forward": 3, "input_grad": 2, "weight_grad": 1, "p2p": 0.5}
    asked = {"pipeline": {"ranks": 4, "microbatches": 64}, "costs": costs, "schedule": schedule}
    note = f"not extrapolated: {schedule['name']} may find another order"
    assert api.simulate({**asked, "simulation": {"extrapolate": True}}).metrics["warnings"][0].startswith(note)
    published = {"name": "zb-v", "order": "handmade"} if schedule["name"] == "zb-v" else {"name": "v-min"}
    found = api.simulate({**asked, "schedule": published, "simulation": {"extrapolate": True}})
    assert found.metrics["warnings"][0].startswith("extrapolated from")
