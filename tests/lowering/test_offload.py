"""Copies to the host and back: what they wait for, that they delay nothing, and what they do to memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipesim.costs.costs import HostCopies
from pipesim.costs.unit import unit_costs
from pipesim.engine import compiled, event
from pipesim.errors import ScheduleError
from pipesim.ir.graph import HOST
from pipesim.ir.offloading import Offloading
from pipesim.ir.op import BACKWARD_KINDS, Kind
from pipesim.lowering.bind import bind
from pipesim.lowering.copies import Slots
from pipesim.lowering.lower import Lowering, lower
from pipesim.lowering.memory import activation_effects
from pipesim.lowering.offload_plan import held_activations, plan_offload
from pipesim.lowering.postpone import latest_starts
from pipesim.metrics.memory import curve, peaks, resident
from pipesim.metrics.offload import host_peaks, offload_section, waited
from pipesim.schedules import Setting, create

PICO = 1e12


def priced(program, offload, shared=False, alone=1.0, **costs):
    """Unit costs per stage, with every rank on a link of its own or two on each."""
    stages, ranks = program.placement.stages, program.ranks
    price = unit_costs(stages, ranks, offload=offload, **costs)
    if shared and price.host is not None:
        price = replace(price, host=replace(price.host, switch=np.arange(ranks) // 2, alone=alone))
    return price


def lowered(name, ranks, microbatches, share, price, options=None, alternating=False):
    program = create(name, **(options or {})).program(Setting(ranks, microbatches))
    price = price(program)
    return bind(lower(program, price, Lowering(offload=Offloading(share, alternating))), price), price


def offloaded(ranks=4, microbatches=8, share=1.0, round_trip=1.0, shared=False, alone=1.0, name="pipe-offload"):
    """A graph with copies, and its costs."""
    return lowered(name, ranks, microbatches, share, lambda p: priced(p, round_trip, shared, alone))


def nodes_of(graph, kind):
    return np.flatnonzero(graph.kind == kind)


def test_what_copies_wait_for_and_what_waits_for_them():
    """An offload for its forward, a backward for its reload; each rank has one host stream, offload before reload."""
    graph, _ = offloaded()
    out, back = nodes_of(graph, Kind.OFFLOAD), nodes_of(graph, Kind.RELOAD)
    assert len(out) == len(back) > 0
    names = [(stream.rank, stream.name) for stream in graph.streams[4:]]
    assert names == [(rank, HOST) for rank in range(4)]
    for node in out:
        assert (graph.op(node)._replace(kind=Kind.F)) in [graph.op(d) for d in graph.dependencies(node)]
    place = {graph.op(node): node for node in range(len(graph))}
    for node in back:
        op = graph.op(node)
        assert node in graph.dependencies(place[op._replace(kind=Kind.I)])
        assert place[op._replace(kind=Kind.OFFLOAD)] < node


def test_a_recomputation_waits_in_the_backwards_place():
    """It is what reads the activations first."""
    program = create("pipe-offload").program(Setting(2, 6))
    price = priced(program, 1.0)
    price = replace(price, times=replace(price.times, recompute=np.full(4, 0.5)))
    graph = lower(program, price, Lowering(offload=Offloading(1.0)))
    place = {graph.op(node): node for node in range(len(graph))}
    for node in nodes_of(graph, Kind.RELOAD):
        assert node in graph.dependencies(place[graph.op(node)._replace(kind=Kind.RECOMPUTE)])


def test_gpipe_on_one_rank_by_hand():
    """Four forwards of 1, four backwards of 2, copies of half a second each way.

    out of 0 1 2 3 end at 1.5 2.5 3.5 4.5; backs start after the op that ends before them in the plan: 0 after the
    third offload at 3.5, 1 after the fourth at 4.5, then 2 and 3 as the backwards of 0 and 1 end, at 6 and 8.
    """
    graph, price = lowered("gpipe", 1, 4, 1.0, lambda p: priced(p, 1.0))
    timeline = compiled.run(graph)
    assert timeline.makespan == 12 * PICO
    ends, starts = ((t / PICO)[nodes_of(graph, k)].tolist() for t, k in
                    ((timeline.end, Kind.OFFLOAD), (timeline.start, Kind.RELOAD)))  # fmt: skip
    assert (ends, starts) == ([1.5, 2.5, 3.5, 4.5], [3.5, 4.5, 6, 8])
    effects = activation_effects(graph, price.sizes)
    moments, level = curve(timeline, effects, 0)
    held = {0: 1, 1: 2, 1.5: 1, 2: 2, 2.5: 1, 3: 2, 3.5: 2, 4.5: 2, 6: 2, 8: 2, 10: 1, 12: 0}
    assert {moment: level[np.searchsorted(moments, moment)] for moment in held} == held
    assert peaks(timeline, effects, resident(graph, price)).bytes.tolist() == [2]
    assert host_peaks(timeline, price).tolist() == [3]  # 0, 1 and 2 from 3 s to 4 s
    assert waited(timeline).tolist() == [0]


cases = st.fixed_dictionaries(
    {
        "ranks": st.integers(1, 6),
        "microbatches": st.integers(1, 14),
        "chunks": st.integers(1, 3),
        "offloading": st.builds(Offloading, st.floats(0.1, 1.0), st.booleans()),
        "round_trip": st.floats(0.0, 4.0),
        "costs": st.fixed_dictionaries(
            {name: st.integers(1, 4) for name in ("forward", "input_grad", "weight_grad")}
            | {"p2p": st.sampled_from([0.0, 0.3, 1.0])}
        ),
        "shared": st.booleans(),
    }
)


def case_of(ranks, microbatches, chunks, offloading, round_trip, costs, shared):
    """A program, its costs and what to offload."""
    program = create("pipe-offload", chunks=chunks).program(Setting(ranks, microbatches))
    return program, priced(program, round_trip, shared, 0.75, **costs), offloading


@settings(max_examples=60, deadline=None)
@given(cases)
def test_copies_never_delay_the_step(case):
    """Whatever the sizes, shares and speeds: refused, or as long as without copies; both engines agree."""
    program, price, offloading = case_of(**case)
    try:
        graph = bind(lower(program, price, Lowering(offload=offloading)), price)
    except ScheduleError:
        return
    timeline = compiled.run(graph)
    assert timeline.makespan == compiled.run(bind(lower(program, price), price)).makespan
    assert (event.run(graph).end == timeline.end).all()


@settings(max_examples=60, deadline=None)
@given(cases, st.integers(0, 2**32 - 1))
def test_memory_never_exceeds_the_plan_whatever_ops_take(case, seed):
    """With durations between zero and three times those planned, no rank holds more than planned; all comes back."""
    program, price, offloading = case_of(**case)
    try:
        graph = bind(lower(program, price, Lowering(offload=offloading)), price)
    except ScheduleError:
        return
    planned = plan_offload(lower(program, price), price, offloading).peaks(price.sizes.activations)
    effects = activation_effects(graph, price.sizes)
    factor = np.random.default_rng(seed).uniform(0, 3, len(graph))
    for duration in (graph.duration, np.rint(graph.duration * factor).astype(np.int64)):
        timeline = compiled.run(graph.bound(duration, graph.dep_lag))
        most = peaks(timeline, effects, resident(graph, price)).activations
        assert (most <= planned).all()
        assert all(curve(timeline, effects, rank)[1][-1] == 0 for rank in range(graph.ranks))


@settings(max_examples=30, deadline=None)
@given(cases)
def test_a_switch_carries_one_copy_each_way(case):
    """Two ranks on one switch never copy in the same direction at once."""
    program, price, offloading = case_of(**(case | {"shared": True}))
    try:
        graph = bind(lower(program, price, Lowering(offload=offloading)), price)
    except ScheduleError:
        return
    timeline = compiled.run(graph)
    for kind in (Kind.OFFLOAD, Kind.RELOAD):
        for switch in range((graph.ranks + 1) // 2):
            nodes = nodes_of(graph, kind)
            nodes = nodes[graph.rank[nodes] // 2 == switch]
            order = nodes[np.argsort(timeline.start[nodes], kind="stable")]
            assert (timeline.start[order][1:] >= timeline.end[order][:-1]).all()


def test_neighbours_on_a_switch_copy_in_opposite_directions():
    """With links that are busy nearly all the time, one rank's offloads run beside the other's reloads."""
    graph, _ = offloaded(ranks=8, microbatches=32, round_trip=2.9, shared=True)
    timeline = compiled.run(graph)
    spans = {
        (int(graph.rank[n]), int(graph.kind[n]), i): (timeline.start[n], timeline.end[n])
        for i, n in enumerate(range(graph.compute_nodes, len(graph)))
    }
    out, back = ([s for (r, k, _), s in spans.items() if (r, k) == w] for w in ((0, Kind.OFFLOAD), (1, Kind.RELOAD)))
    beside = [a for a in out for b in back if a[0] < b[1] and b[0] < a[1]]
    assert len(beside) > 10


def test_copies_alone_on_the_link_are_faster():
    """Offloads before the first reload and reloads after the last offload of a switch, and only these."""
    graph, _ = offloaded(ranks=4, microbatches=16, round_trip=2.8, shared=True, alone=0.5)
    timeline = compiled.run(graph)
    lengths = graph.duration[nodes_of(graph, Kind.OFFLOAD)] / PICO
    assert set(lengths.tolist()) == {0.7, 1.4}
    for switch in (0, 1):
        out, back = (
            n[graph.rank[n] // 2 == switch] for n in (nodes_of(graph, Kind.OFFLOAD), nodes_of(graph, Kind.RELOAD))
        )
        quick = out[graph.duration[out] == 0.7 * PICO]
        assert timeline.end[quick].max() <= timeline.start[back].min()


def test_the_longest_held_leave_first():
    """A quarter of two chunks is every second micro-batch of the first chunk; half is the whole of it."""
    for share, stages, microbatches in ((0.25, {0, 1}, {1, 3, 5, 7}), (0.5, {0, 1}, set(range(8)))):
        graph, _ = offloaded(ranks=2, microbatches=8, share=share, round_trip=0.1)
        out = nodes_of(graph, Kind.OFFLOAD)
        assert set(graph.stage[out].tolist()) == stages
        assert set(graph.microbatch[out].tolist()) == microbatches


def test_free_copies_leave_what_is_being_used():
    """If copies take no time, a rank holds an activation only while an op makes it or needs it."""
    graph, price = lowered("pipe-offload", 4, 16, 1.0, lambda p: priced(p, 0.0))
    timeline = compiled.run(graph)
    assert price.host is None
    assert peaks(timeline, activation_effects(graph, price.sizes), resident(graph, price)).activations.max() == 1


def test_postponed_forwards_delay_nothing():
    """Warm-up forwards start no earlier than before, end before what waits for them, and are all that moves."""
    program = create("pipe-offload", chunks=3).program(Setting(4, 8))
    price = priced(program, 1.0, p2p=0.25)
    graph = bind(lower(program, price), price)
    timeline = compiled.run(graph)
    start = latest_starts(graph, timeline.start)
    end = start + graph.duration
    consumer = np.repeat(np.arange(len(graph)), np.diff(graph.dep_starts))
    assert (end[graph.dep_node] + graph.dep_lag <= start[consumer]).all()
    assert (end[:-1] <= start[1:])[np.diff(graph.rank) == 0].all()
    moved = start != timeline.start
    assert (start >= timeline.start).all()
    assert set(graph.kind[moved].tolist()) == {Kind.F}
    assert moved.sum() >= 5


def test_every_activation_is_held_once():
    """From its forward to the op that needs it, on the rank that runs both; also within overlapped pairs."""
    program = create("dualpipe-v").program(Setting(2, 8))
    graph = lower(program, unit_costs(4, 2))
    held = held_activations(graph)
    assert len(held.forward) == 4 * 8
    assert (graph.rank[held.forward] == graph.rank[held.needed_by]).all()
    starts_a_pair = graph.paired[held.needed_by]
    assert starts_a_pair.any()
    assert np.isin(graph.kind[held.needed_by[~starts_a_pair]], BACKWARD_KINDS).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(-100, 100), st.integers(0, 20), st.integers(-300, 900))
def test_slots_are_found_from_either_side(step, alone, first, count, moment):
    """The first slot from a moment on starts there or later, and the one before it earlier; likewise the last one."""
    slots = Slots(step, min(step, alone), first, count)
    following, preceding = slots.next_from(moment), slots.last_until(moment)
    assert slots.start(following - 1) < moment <= slots.start(following)
    assert slots.start(preceding + 1) <= moment < slots.start(preceding + 2)


def test_the_result_says_what_copies_cost():
    """k is 1 / 3, all copies of one rank fit between its ops, and the host holds what the rank does not."""
    graph, price = offloaded(ranks=4, microbatches=8, round_trip=1.0)
    section = offload_section(compiled.run(graph), price)
    assert section["k"] == pytest.approx(1 / 3)  # a division
    assert section["share"] == section["copies"] / 64
    assert section["waited_s"] == 0
    assert len(section["host_peak_bytes"]) == 4
    assert section["copied_bytes"] == section["copies"] / 4
    assert section["host_fits"] is None


def test_host_memory_is_counted_by_node():
    """Each GPU keeps what its rank needs at most; the fullest node decides."""
    program = create("pipe-offload").program(Setting(4, 8))
    price = priced(program, 1.0)
    price = replace(price, host=replace(price.host, gpus=np.array([[2, 2, 0, 0], [0, 0, 2, 2]]), memory_bytes=10.0))
    graph = bind(lower(program, price, Lowering(offload=Offloading(1.0))), price)
    section = offload_section(compiled.run(graph), price)
    peak = section["host_peak_bytes"]
    assert section["node_peak_bytes"] == 2 * max(peak[0] + peak[1], peak[2] + peak[3])
    assert section["host_fits"] is (section["node_peak_bytes"] <= 10)


def test_a_share_of_nothing_copies_nothing():
    """Stays too short for a round trip are left where they are."""
    graph, _ = offloaded(ranks=1, microbatches=4, round_trip=2.0)
    assert len(nodes_of(graph, Kind.OFFLOAD)) == 0


def test_shared_links_carry_half_as_much():
    """Copies that fill a rank's own link do not fit on one that two ranks share in each direction when both
    directions of both ranks need more than the time there is.
    """
    program = create("pipe-offload").program(Setting(4, 16))
    price = priced(program, 2.0)
    crowded = replace(price, host=HostCopies(price.host.offload_s, price.host.reload_s, np.zeros(4, np.int64)))
    lower(program, price, Lowering(offload=Offloading(1.0)))
    with pytest.raises(ScheduleError, match=r"1\.\d+ times as long"):
        lower(program, crowded, Lowering(offload=Offloading(1.0)))
