"""Blocking exchanges: what is posted together shares ports, and Megatron's interleaved schedule exchanges in pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipesim
from pipesim.costs.unit import unit_costs
from pipesim.engine import compiled, event, fair
from pipesim.ir.op import Kind
from pipesim.ir.placement import looped, vee
from pipesim.ir.program import Program
from pipesim.ir.verify import verify
from pipesim.lowering.bind import bind, traffic
from pipesim.lowering.lower import Lowering, lower
from pipesim.schedules import create
from pipesim.schedules.base import Setting

PAIRS = Lowering(p2p="blocking", paired_exchanges=True)


def costs(program, hop=0.0, seconds_per_byte=0.0):
    """Forward 1, backward 2 per rank; messages of one byte."""
    placement = program.placement
    priced = unit_costs(placement.stages, placement.ranks, chunks=placement.chunks, p2p=hop)
    hops = replace(priced.hops, seconds_per_byte=np.full_like(priced.hops.latency_s, seconds_per_byte))
    return replace(priced, hops=hops, sizes=replace(priced.sizes, message=np.ones(placement.stages)))


def makespan_s(program, priced, options):
    graph = bind(lower(program, priced, options), priced)
    timeline = event.run(graph)
    assert (compiled.run(graph).end == timeline.end).all()
    return timeline.makespan / 1e12


@pytest.mark.parametrize(
    ("ranks", "chunks", "microbatches"), [(2, 2, 4), (4, 2, 8), (4, 3, 12), (8, 3, 16), (5, 4, 10)]
)
def test_exchanges_in_pairs_cost_nothing_when_transfers_do(ranks, chunks, microbatches):
    """Lockstep adds no idle time of its own: the ideal (V M + P - 1) / V times F + B."""
    program = create("interleaved-1f1b", chunks=chunks).program(Setting(ranks, microbatches))
    ideal = (chunks * microbatches + ranks - 1) / chunks * 3
    assert makespan_s(program, costs(program), PAIRS) == pytest.approx(ideal, abs=1e-9)


def test_a_pair_is_followed_by_one_exchange():
    """Between a steady forward and its backward nothing is exchanged."""
    program = create("interleaved-1f1b", chunks=2).program(Setting(4, 8))
    graph = lower(program, costs(program, hop=0.1), PAIRS)
    kind = graph.kind[: graph.compute_nodes]
    rank = graph.rank[: graph.compute_nodes]
    split = (kind[:-1] == Kind.F) & (kind[1:] == Kind.B) & (rank[:-1] == rank[1:])
    assert split.sum() >= 4 * (8 * 2 - 11)


def test_every_transfer_is_there_once_on_both_sides():
    program = create("interleaved-1f1b", chunks=2).program(Setting(4, 8))
    kind = lower(program, costs(program, hop=0.1), PAIRS).kind
    transfers = 2 * 8 * (program.placement.stages - 1)
    for kinds in ((Kind.SEND_F, Kind.SEND_B), (Kind.RECV_F, Kind.RECV_B)):
        assert np.isin(kind, kinds).sum() == transfers


def test_messages_of_one_exchange_share_their_port():
    """Two ranks, two chunks: in the steady state both directions' messages leave through one port together."""
    program = create("interleaved-1f1b", chunks=2).program(Setting(2, 4))
    shared = costs(program, seconds_per_byte=0.1)
    own = np.arange(2, dtype=np.int32)
    apart = replace(shared.hops, send_port=np.stack([own, own + 2], axis=1))
    together = makespan_s(program, shared, PAIRS)
    assert together >= makespan_s(program, replace(shared, hops=apart), PAIRS)
    graph = bind(lower(program, shared, PAIRS), shared)
    lags = sorted(set(np.unique(graph.dep_lag).tolist()) - {0})
    assert lags == [10**11, 2 * 10**11]


@pytest.mark.parametrize(("share", "together"), [(1.0, 2.0), (0.75, 1.5), (0.5, 1.0), (0.25, 1.0)])
def test_two_messages_that_leave_room_in_their_port_wait_for_less(share, together):
    """Each needs 0.1 s alone, and so much of the port; two take what the port needs for both, as on a fair network."""
    program = create("interleaved-1f1b", chunks=2).program(Setting(2, 4))
    whole = costs(program, seconds_per_byte=0.1)
    partial = replace(whole, hops=replace(whole.hops, port_share=np.full((2, 2), share)))
    graph = lower(program, partial, PAIRS)
    bound = bind(graph, partial)
    assert set(bound.dep_lag.tolist()) == {10**11, round(together * 10**11)}
    shared = fair.run(bind(graph, partial), traffic(graph, partial))
    assert event.run(bound).makespan == shared.makespan


@st.composite
def random_programs(draw):
    """Any order that can run: among the ops that are ready on any rank, one is drawn again and again."""
    place, ranks, microbatches = draw(st.sampled_from([vee, lambda r: looped(r, 2)])), 4, draw(st.integers(1, 6))
    placement, done, random = place(ranks), set(), draw(st.randoms(use_true_random=False))
    stages, orders = placement.stages, [[] for _ in range(ranks)]
    needs = {}
    for s in range(stages):
        for m in range(microbatches):
            needs[s, "F", m] = [(s - 1, "F", m)] if s else []
            needs[s, "I", m] = [(s, "F", m), *([(s + 1, "I", m)] if s + 1 < stages else [])]
            needs[s, "W", m] = [(s, "I", m)]
    while len(done) < len(needs):
        op = random.choice([op for op, before in needs.items() if op not in done and done.issuperset(before)])
        done.add(op)
        stage, kind, microbatch = op
        orders[placement.rank_of[0, stage]].append(f"{stage}{kind}{microbatch}")
    return Program.from_orders(placement, orders)


@settings(deadline=None, max_examples=60)
@given(random_programs(), st.integers(0, 3))
def test_blocking_transfers_never_wait_in_a_circle(program, hop):
    """Whatever order can run with transfers beside the ranks can run with transfers that hold them."""
    verify(program)
    priced = costs(program, hop)
    assert makespan_s(program, priced, Lowering(p2p="blocking")) >= makespan_s(program, priced, Lowering())


@pytest.mark.parametrize("options", [{"retime": True, "effort": 0}, {"retime": True}])
def test_searched_orders_can_block(options):
    """The V schedules' orders for real costs are irregular: 4 ranks and 13 micro-batches are an example."""
    short = {"forward": 0.86, "input_grad": 0.1, "weight_grad": 0}
    config = {"pipeline": {"ranks": 4, "microbatches": 13}, "costs": short, "schedule": {"name": "v-half", **options}}
    blocking = pipesim.simulate({**config, "simulation": {"p2p": "blocking"}}).metrics["step_time_s"]
    assert blocking >= pipesim.simulate(config).metrics["step_time_s"]
