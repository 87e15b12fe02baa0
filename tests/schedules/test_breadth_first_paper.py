"""The schedule figure of arXiv 2211.05953, and laws for hop latency, as exact integers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay import UNIT, costs, peak_in_flight
from replay import replay as run

from pipesim.engine import event
from pipesim.ir.op import Kind
from pipesim.lowering.bind import bind
from pipesim.lowering.lower import Lowering, lower
from pipesim.metrics.busy import measure
from pipesim.schedules import Setting, create

LAYERS, RANKS, MICROBATCHES = 16, 4, 8
# In units of 1/12 of a layer's forward, so that the optimizer's 5/3 split over four stages stays an integer.
LAYER = 12


def figure(name, chunks):
    """The paper's figure: per layer F=1, B=2, reduction 13 in one bucket per layer, optimizer 5/3 per rank."""
    options = {"chunks": chunks} if chunks > 1 else {}
    program = create(name, **options).program(Setting(RANKS, MICROBATCHES))
    stages = program.placement.stages
    layers = LAYERS // stages
    priced = costs(program, layers * LAYER, layers * LAYER, layers * LAYER)
    times = replace(
        priced.times,
        reduce_grad=np.full(stages, 13 * LAYER * layers * UNIT),
        optimizer=np.full(stages, 20 // chunks * UNIT),
    )
    priced = replace(priced, times=times, gradient_buckets=np.full(stages, layers))
    return event.run(bind(lower(program, priced, Lowering(synchronous=False)), priced))


@pytest.mark.parametrize(
    ("name", "chunks", "compute_end", "total"),
    [
        ("gpipe", 1, 132, "179.67"),
        ("breadth-first", 4, 105, "119.67"),
        ("interleaved-1f1b", 4, 105, "134.67"),
        ("1f1b", 1, 132, "179.67"),
    ],
)
def test_schedule_figure(name, chunks, compute_end, total):
    """Compute and step end where the figure draws them (two decimals are what the drawing resolves)."""
    timeline = figure(name, chunks)
    assert measure(timeline).makespan == compute_end * LAYER
    assert f"{timeline.makespan / LAYER:.2f}" == total


def test_breadth_first_reductions_start_as_drawn():
    """Rank 0 reduces its four layers at 57, 73, 89 and 105, its forward runs 0-32, its backward 41-105."""
    timeline = figure("breadth-first", 4)
    graph = timeline.graph
    mine = graph.rank == 0
    reductions = timeline.start[mine & (graph.kind == Kind.REDUCE_GRAD)] // LAYER
    assert reductions.tolist() == [57, 73, 89, 105]
    forwards, backwards = mine & (graph.kind == Kind.F), mine & (graph.kind == Kind.B)
    assert timeline.end[forwards].max() == 32 * LAYER
    assert (timeline.start[backwards].min(), timeline.end[backwards].max()) == (41 * LAYER, 105 * LAYER)


def test_gpipe_reductions_start_inside_the_last_backward():
    """Without looping the first layer's gradients are ready at 126 and the four reductions last 52."""
    timeline = figure("gpipe", 1)
    graph = timeline.graph
    nodes = np.flatnonzero((graph.rank == 0) & (graph.kind == Kind.REDUCE_GRAD))
    assert timeline.start[nodes[0]] == 126 * LAYER
    assert timeline.end[nodes[-1]] - timeline.start[nodes[0]] == 52 * LAYER


sizes = st.tuples(st.sampled_from([2, 3, 4, 6, 8]), st.sampled_from([2, 3, 4]), st.sampled_from([1, 2, 3]))
hops = st.integers(0, 8)
F, B = 4, 8


@settings(deadline=None, max_examples=60)
@given(sizes, hops)
def test_hop_law_of_breadth_first(size, hop):
    """Extra time 2(P-1)c + (V-1)[max(0, P(F+c) - MF) + max(0, P(B+c) - MB)] (c up to 2F)."""
    p, v, k = size
    m = k * p
    program = create("breadth-first", chunks=v).program(Setting(p, m))
    extra = 2 * (p - 1) * hop + (v - 1) * (max(0, p * (F + hop) - m * F) + max(0, p * (B + hop) - m * B))
    assert run(program, F, B // 2, B // 2, hop).makespan == (F + B) * (m * v + p - 1) + extra


@settings(deadline=None, max_examples=60)
@given(sizes, hops)
def test_hop_law_of_depth_first(size, hop):
    """Extra time 2(PV-1)c, whatever the number of micro-batches; the law is stated up to c = F."""
    p, v, k = size
    hop = min(hop, F)
    program = create("interleaved-1f1b", chunks=v).program(Setting(p, k * p))
    assert run(program, F, B // 2, B // 2, hop).makespan == (F + B) * (k * p * v + p - 1) + 2 * (p * v - 1) * hop


@settings(deadline=None, max_examples=60)
@given(sizes, hops)
def test_hop_laws_without_looping(size, hop):
    """1F1B pays c[2(P-1)M/P + 2(P-2)] (M a multiple of P), GPipe 2(P-1)c."""
    p, _, k = size
    hop, m = min(hop, F), k * p
    ideal = (F + B) * (m + p - 1)
    one = create("1f1b").program(Setting(p, m))
    assert run(one, F, B // 2, B // 2, hop).makespan == ideal + hop * (2 * (p - 1) * k + 2 * (p - 2))
    assert run(create("gpipe").program(Setting(p, m)), F, B // 2, B // 2, hop).makespan == ideal + 2 * (p - 1) * hop


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_backward_order_changes_neither_makespan_nor_peak(order):
    """Both breadth-first backward orders take (F+B)(MV+P-1) and hold M V stage activations."""
    program = create("breadth-first", chunks=4, backward_order=order).program(Setting(4, 8))
    assert run(program).makespan == 3 * (8 * 4 + 3)
    assert peak_in_flight(program) == [32] * 4


@pytest.mark.parametrize(("chunks", "peaks"), [(4, [19, 17, 15, 13]), (2, [11, 9, 7, 5])])
def test_depth_first_peaks(chunks, peaks):
    """Rank r holds 2(P-r-1) + (V-1)P + 1 stage activations."""
    assert peak_in_flight(create("depth-first", chunks=chunks).program(Setting(4, 8))) == peaks


def test_1f1b_peaks():
    """Rank r holds P - r micro-batches."""
    assert peak_in_flight(create("1f1b").program(Setting(4, 8))) == [4, 3, 2, 1]
