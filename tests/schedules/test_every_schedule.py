"""What holds for every schedule in the table: it is a step, it runs, and its declared theory is what happens."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest
from replay import costs

from pipesim.engine import event
from pipesim.errors import ScheduleError
from pipesim.ir.connect import connect
from pipesim.ir.op import Kind
from pipesim.ir.verify import check_progress, verify
from pipesim.lowering.bind import bind
from pipesim.metrics.busy import measure
from pipesim.metrics.memory import in_flight
from pipesim.schedules import Setting, StepCosts, create, names, registry

VARIANTS = [
    *((name, {}) for name in names() if name != "custom"),
    ("interleaved-1f1b", {"chunks": 3}),
    ("breadth-first", {"chunks": 4, "backward_order": "descending"}),
    ("chimera", {"pairs": 2}),
    ("chimera", {"concatenation": "doubling"}),
    ("bitpipe", {"early_forwarding": True}),
    ("bitpipe", {"placement": "loop"}),
    ("hanayo", {"waves": 2}),
    ("zb-2p", {}),
    ("zb-v", {"order": "handmade"}),
    ("interleaved-zb", {"chunks": 3}),
    ("gis", {"chunks": 3}),
    ("pipe-offload", {"chunks": 3}),
    ("pipedream-2bw", {"group": 8}),
    ("layerpipe2", {"layers": 2}),
    ("layerpipe2", {"engines": 2}),
]
SIZES = [
    (1, 1),
    (1, 3),
    (2, 1),
    (2, 2),
    (2, 5),
    (3, 3),
    (3, 7),
    (4, 2),
    (4, 4),
    (4, 8),
    (4, 10),
    (6, 12),
    (8, 16),
    (8, 24),
]
TIMES = [(1, 1, 1), (2, 3, 1)]


def label(variant):
    return variant[0] + "".join(f"-{k}={v}" for k, v in variant[1].items())


def setting(schedule, ranks, microbatches, times=(1, 1, 1)):
    stages = schedule.placement(ranks).stages
    columns = [np.full(stages, t, np.int64) for t in times]
    one = np.ones(stages)
    return Setting(ranks, microbatches, StepCosts(*columns, hop=0, activations=one, weight_grad_activations=one / 2))


@cache
def built(name, options, ranks, microbatches, times=(1, 1, 1)):
    schedule = create(name, **dict(options))
    try:
        schedule.check(ranks, microbatches)
    except ScheduleError as error:
        return schedule, None, str(error)
    return schedule, schedule.program(setting(schedule, ranks, microbatches, times)), ""


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=label)
def test_it_is_a_step_or_says_which_numbers_would_do(variant, size):
    """Each op once, no deadlock; or an error with numbers in it."""
    name, options = variant
    _, program, refusal = built(name, tuple(options.items()), *size)
    if program is None:
        assert re.search(r"\d", refusal)
        return
    verify(program)
    check_progress(connect(program))
    assert program.microbatches == size[1]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=label)
def test_the_microbatches_that_an_error_offers_would_do(variant, size):
    """Every number after "use" but those of ranks, which may need other micro-batches as well."""
    schedule, _, refusal = built(variant[0], tuple(variant[1].items()), *size)
    offered = re.search(r"use (\d+)(?: or (\d+))?(?! ranks|\d| or \d)", refusal)
    for number in offered.groups() if offered else ():
        if number is not None:
            schedule.check(size[0], int(number))


@pytest.mark.parametrize("variant", VARIANTS, ids=label)
def test_it_runs_at_its_natural_size(variant):
    """Four ranks and sixteen micro-batches suit every schedule."""
    _, program, refusal = built(variant[0], tuple(variant[1].items()), 4, 16)
    assert program is not None, refusal


@pytest.mark.parametrize("times", TIMES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=label)
def test_theory_is_what_happens(variant, times):
    """Declared bubble and peak equal the replay, at every size in the formula's domain (floats of one division)."""
    for ranks, microbatches in SIZES:
        schedule, program, _ = built(variant[0], tuple(variant[1].items()), ranks, microbatches, times)
        if program is None:
            continue
        theory = schedule.theory(setting(schedule, ranks, microbatches, times))
        if theory is None:
            continue
        assert theory.source
        timeline = event.run(bind(connect(program), costs(program, *times)))
        if theory.bubble_fraction is not None:
            assert measure(timeline).bubble_fraction == pytest.approx(theory.bubble_fraction, abs=1e-12)
        if theory.peak_in_flight is not None:
            peaks = in_flight(timeline.graph)
            found = peaks if len(theory.peak_in_flight) == ranks else [peaks.max()]
            assert list(found) == pytest.approx(list(theory.peak_in_flight), abs=1e-12)


@pytest.mark.parametrize("variant", VARIANTS, ids=label)
def test_work_is_conserved(variant):
    """Whatever the order, a step is M forwards and M backwards of every stage."""
    _, program, _ = built(variant[0], tuple(variant[1].items()), 4, 16)
    counts = np.bincount(program.kind, minlength=4)
    steps = 16 * program.placement.stages
    assert counts[Kind.F] == steps
    assert counts[Kind.I] == counts[Kind.W]
    assert counts[Kind.B] + counts[Kind.I] == steps


@pytest.mark.parametrize("name", [n for n in names() if n != "custom"])
def test_it_says_where_it_comes_from(name):
    """Citation, summary, divisibility, bubble and memory are filled in."""
    cls = registry.get(name)
    for text in (cls.citation, cls.summary, cls.requires, cls.bubble, cls.memory):
        assert text
    assert len(cls.summary) < 100
