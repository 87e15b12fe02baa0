"""Programs that no schedule would make: any order in which the ops of a step can run, on any placement."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from replay import costs

from pipesim.engine import compiled, event
from pipesim.engine.batch import Batch
from pipesim.ir.connect import connect
from pipesim.ir.op import Kind, Op
from pipesim.ir.placement import Placement
from pipesim.ir.program import Program
from pipesim.ir.rules import ROLE_KINDS, RULES
from pipesim.ir.verify import check_progress, verify
from pipesim.lowering.bind import bind
from pipesim.lowering.lower import Lowering, lower


def needs(op, ops):
    """Ops of the step that the table of rules puts before ``op``."""
    found = []
    for rule in RULES:
        if op.kind in ROLE_KINDS[rule.consumer]:
            others = (Op(op.stage + rule.offset, kind, op.microbatch) for kind in ROLE_KINDS[rule.producer])
            found += [other for other in others if other in ops and other != op]
    return found


def random_step(ranks, stages, microbatches, routes, seed):
    """Placement, split of each backward, and order of ops all at random."""
    draw = random.Random(seed)
    table = [[draw.randrange(ranks) for _ in range(stages)] for _ in range(routes)]
    route_of = [draw.randrange(routes) for _ in range(microbatches)]
    ops = []
    for stage in range(stages):
        for microbatch in range(microbatches):
            backward = draw.choice([(Kind.B,), (Kind.I, Kind.W)])
            ops += [Op(stage, kind, microbatch) for kind in (Kind.F, *backward)]
    left, done, orders = set(ops), set(), [[] for _ in range(ranks)]
    before = {op: needs(op, left) for op in ops}
    while left:
        op = draw.choice(sorted(o for o in left if done.issuperset(before[o])))
        orders[table[route_of[op.microbatch]][op.stage]].append(op)
        left.remove(op)
        done.add(op)
    return Program.from_orders(Placement.of(ranks, table), orders, np.array(route_of, np.int32))


programs = st.builds(
    random_step, st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.integers(1, 2), st.integers(0, 10**6)
)
durations = st.lists(st.integers(0, 4), min_size=3, max_size=3)


@settings(deadline=None, max_examples=100)
@given(programs, durations, st.integers(0, 3), st.sampled_from(["overlapped", "blocking"]))
def test_engines_agree_on_any_program(program, times, hop, p2p):
    """Event engine, compiled engine and batch; zero durations and ties included."""
    verify(program)
    priced = costs(program, *times, hop)
    graph = bind(lower(program, priced, Lowering(p2p=p2p)), priced)
    expected = event.run(graph)
    assert compiled.run(graph).end.tolist() == expected.end.tolist()
    assert Batch(graph).makespans(graph.duration[None]).tolist() == [expected.end.max()]


@settings(deadline=None, max_examples=50)
@given(programs)
def test_a_program_that_was_run_once_can_be_run(program):
    """The order it came from is a proof that there is no deadlock."""
    check_progress(connect(program))


@settings(deadline=None, max_examples=50)
@given(programs)
def test_dependencies_are_those_of_the_rules(program):
    """Every rule's producer ends before its consumer starts, through a dependency or through the stream's order."""
    timeline = event.run(bind(connect(program), costs(program, 1, 1, 1)))
    where = {timeline.graph.op(node): node for node in range(len(timeline.graph))}
    for op, node in where.items():
        assert all(timeline.end[where[other]] <= timeline.start[node] for other in needs(op, where))
