"""Networks that are shared, `fifo` and `fair`: worked examples, and what holds for any transfers and any graph."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import bound_graphs
from replay import costs

from pipesim.engine import event, fair, fifo
from pipesim.engine.fair import Fair
from pipesim.engine.fifo import Fifo
from pipesim.engine.shared import Transfer
from pipesim.ir.graph import NO_MESSAGE
from pipesim.ir.op import Kind
from pipesim.ir.traffic import WHOLE, Traffic
from pipesim.lowering.bind import bind, traffic
from pipesim.lowering.lower import Lowering, lower
from pipesim.schedules import Setting, create

HALF = WHOLE // 2


def carry(network, *transfers):
    """(start, end) of transfers given as (asked at, ports, length[, share]), numbered as ranks."""
    env = simpy.Environment()
    carrier, found = network(env), {}

    def ask(rank, time, ports, length, share=WHOLE):
        yield env.timeout(time)
        done = lambda start, end: found.update({rank: (start, end)})  # noqa: E731
        carrier.carry(Transfer(time, (rank, 0, 0, 0), ports, length, share, done))

    for rank, transfer in enumerate(transfers):
        env.process(ask(rank, *transfer))
    env.run()
    return [found[rank] for rank in range(len(transfers))]


def ends(network, *transfers):
    return [end for _, end in carry(network, *transfers)]


def test_two_flows_on_one_port_take_twice_as_long():
    """Each has half of it."""
    assert ends(Fair, (0, (1,), 100), (0, (1,), 100)) == [200, 200]


SECOND = 10**12
# Flows as (bytes, links), one byte per second on every link, the latency of all of them in seconds, and when each is
# through: what SimGrid says of its flow-level model and checks in simgrid/simgrid
# teshsuite/models/ptask_L07_usage/ptask_L07_usage.cpp (01f632b).
SIMGRID = {
    "one over a link": ([(1, "a")], 0.5, [1.5]),
    "two over a shared link": ([(1, "a"), (1, "a")], 0.5, [2.5, 2.5]),
    "two over links of their own": ([(1, "a"), (1, "b")], 0.5, [1.5, 1.5]),
    "two over a route of three links": ([(1, "abc"), (1, "abc")], 2.0, [4.0, 4.0]),
    "independent": ([(1, "ab"), (1, "cd")], 2.0, [3.0, 3.0]),
    "scatter of 1, 2 and 3 bytes": ([(1, "ab"), (2, "ac"), (3, "ad")], 2.0, [5.0, 7.0, 8.0]),
    "all to all, both directions on one link": (
        [(1, source + target) for source in "abcd" for target in "abcd" if source != target],
        2.0,
        [8.0] * 12,
    ),
    "100 MB and a byte at 125 MB/s": ([(0.8, "a"), (8e-9, "a")], 1e-4, [0.8001, 1e-4 + 2 * 8e-9]),
}


@pytest.mark.parametrize("flows", SIMGRID)
def test_flows_end_when_simgrid_says(flows):
    """To the nanosecond: the byte is printed with four digits there."""
    sent, latency, expected = SIMGRID[flows]
    through = ends(Fair, *((0, tuple(map(ord, links)), round(size * SECOND)) for size, links in sent))
    assert [latency + end / SECOND for end in through] == pytest.approx(expected, abs=1e-7)


@given(st.lists(st.integers(1, 10**6), min_size=3, max_size=3).map(sorted))
def test_three_flows_on_one_port_follow_the_closed_form(lengths):
    """The shortest gets a third, the next then half, the longest then all; 3: ends are whole numbers."""
    short, middle, long = lengths
    expected = [3 * short, short + 2 * middle, short + middle + long]
    assert ends(Fair, *((0, (1,), length) for length in lengths)) == pytest.approx(expected, abs=3)


def test_the_shorter_of_two_flows_leaves_the_port_to_the_longer():
    """40 through at 80; the other has 40 through as well, and 60 to go alone."""
    assert ends(Fair, (0, (1,), 40), (0, (1,), 100)) == [80, 140]


def test_a_flow_that_comes_later_slows_the_first():
    """40 alone, then halves: 60 more take 120; the second has 60 through by then, and 40 to go alone."""
    assert ends(Fair, (0, (1,), 100), (40, (1,), 100)) == [160, 200]


def test_a_flow_over_two_links_with_one_other_on_each():
    """All run at a half."""
    assert ends(Fair, (0, (1, 2), 60), (0, (1,), 60), (0, (2,), 60)) == [120, 120, 120]


def test_three_flows_on_one_link_leave_two_thirds_of_the_other():
    """Thirds on the first port until 90; the fourth flow has what the long one leaves of the second: 30 / (2/3)."""
    assert ends(Fair, (0, (1, 2), 30), (0, (1,), 30), (0, (1,), 30), (0, (2,), 30)) == [90, 90, 90, 45]


def test_three_flows_of_different_lengths():
    """Thirds until the first 10 are through at 30; halves until the next 10 at 50; 10 alone until 60."""
    assert ends(Fair, (0, (1,), 10), (0, (1,), 20), (0, (1,), 30)) == [30, 50, 60]


def test_a_flow_ends_at_the_first_whole_picosecond_at_which_it_is_through():
    """5 at a rate of 2/3 take 7.5."""
    assert ends(Fair, (0, (1, 2), 30), (0, (1,), 30), (0, (1,), 30), (0, (2,), 5))[3] == 8


def test_a_collective_of_half_a_port_leaves_the_other_half():
    """It is not slowed; the message has a half for 100, then the port for itself."""
    assert ends(Fair, (0, (1,), 100, HALF), (0, (1,), 100)) == [100, 150]


def test_two_messages_slow_a_collective():
    """Thirds are less than its half: 50 of work at 1/3 take 150; messages have 50 through then, and halves."""
    assert ends(Fair, (0, (1,), 100, HALF), (0, (1,), 100), (0, (1,), 100)) == [150, 250, 250]


def test_fifo_serves_by_time_then_rank():
    """The third waits for the second although its own other port is free."""
    assert carry(Fifo, (0, (1, 2), 10), (0, (2,), 10), (5, (3, 2), 10), (5, (3,), 10)) == [
        (0, 10),
        (10, 20),
        (20, 30),
        (30, 40),
    ]


def test_fifo_lets_half_collectives_overlap():
    """Half a port is occupied for half of the time."""
    assert carry(Fifo, (0, (1,), 100, HALF), (0, (1,), 100, HALF)) == [(0, 100), (50, 150)]


@pytest.mark.parametrize("network", [Fifo, Fair])
@given(transfer=st.tuples(st.integers(0, 10**15), st.just((1, 2)), st.integers(0, 10**15), st.integers(1, WHOLE)))
def test_alone_a_transfer_takes_its_own_time(network, transfer):
    """To the picosecond, whatever its share."""
    assert carry(network, transfer) == [(transfer[0], transfer[0] + transfer[2])]


class Recorded(Fair):
    """A fair network that keeps (moment, flows with their rates) after every change of rates."""

    def __init__(self, env):
        super().__init__(env)
        self.log = []
        logs.append(self.log)

    def _share(self):
        super()._share()
        present = {flow for flows in self.flows.values() for flow in flows}
        self.log.append((int(self.env.now), {flow: flow.rate for flow in present}))


logs = []

transfers = st.tuples(
    st.integers(0, 60),
    st.lists(st.integers(0, 3), min_size=1, max_size=2, unique=True).map(tuple),
    st.integers(1, 50),
    st.sampled_from([WHOLE, WHOLE, HALF, 100, 1]),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(transfers, min_size=1, max_size=8))
def test_ports_are_never_overfull_and_all_bytes_get_through(given_transfers):
    """Rates at a port add up to at most all of it; a flow's rates times their times are its work, to a picosecond."""
    found = carry(Recorded, *given_transfers)
    sent, last = {}, {}
    for (moment, rates), (until, _) in zip(logs[-1], [*logs[-1][1:], (0, {})], strict=True):
        for port in range(4):
            assert sum(rate for flow, rate in rates.items() if port in flow.transfer.ports) <= WHOLE
        for flow, rate in rates.items():
            assert 0 < rate <= flow.transfer.share
            sent[flow] = sent.get(flow, Fraction(0)) + rate * (until - moment)
            last[flow] = rate
    assert len(sent) == len(given_transfers)
    for flow, amount in sent.items():
        work = flow.transfer.length * flow.transfer.share
        assert work <= amount < work + last[flow]
    for (start, end), (time, _, length, _) in zip(found, given_transfers, strict=True):
        assert start == time
        assert end >= time + length


@settings(deadline=None, max_examples=60)
@given(st.lists(transfers, min_size=1, max_size=8))
def test_fifo_never_serves_two_at_a_time(given_transfers):
    """Whole-port transfers of one port do not overlap."""
    whole = [(time, ports, length) for time, ports, length, _ in given_transfers]
    found = carry(Fifo, *whole)
    for port in range(4):
        spans = sorted(span for span, transfer in zip(found, whole, strict=True) if port in transfer[1])
        assert all(before[1] <= after[0] for before, after in pairwise(spans))


def network_of(graph, ports):
    """Traffic of a graph with random integer lags, all of it bandwidth, over the given numbers of ports."""
    edges, nodes = np.arange(len(graph.dep_node)), np.arange(len(graph))
    collective = np.isin(graph.kind, (Kind.REDUCE_GRAD, Kind.UNSHARD))
    pair = np.array([0, 1]) if ports else np.array([-1, -1])
    count = max(ports, 1)
    return Traffic(
        message=np.where(graph.dep_message != NO_MESSAGE, edges, -1),
        dep_ports=(edges[:, None] % count * 2 + pair if ports else np.tile(pair, (len(edges), 1))).astype(np.int32),
        dep_occupied=np.maximum(graph.dep_lag, 0),
        dep_share=np.where(edges % 2, WHOLE, HALF),
        dep_latency=np.zeros(len(edges), np.int64),
        node_ports=np.where(collective[:, None] & (ports > 0), nodes[:, None] % count * 2 + pair, -1).astype(np.int32),
        node_share=np.where(nodes % 3, WHOLE, HALF),
    )


@pytest.mark.parametrize("engine", [fifo, fair])
@settings(deadline=None, max_examples=40)
@given(graph=bound_graphs(), ports=st.integers(1, 3))
def test_sharing_only_delays(engine, graph, ports):
    """Nothing starts earlier than on the ideal network, and every op is as long, or longer if a collective."""
    ideal, found = event.run(graph), engine.run(graph, network_of(graph, ports))
    assert (found.start >= ideal.start).all()
    assert (found.end >= ideal.end).all()
    longer = np.flatnonzero(found.graph.duration != graph.duration)
    assert (found.graph.duration >= graph.duration).all()
    assert np.isin(graph.kind[longer], (Kind.REDUCE_GRAD, Kind.UNSHARD)).all()


@pytest.mark.parametrize("engine", [fifo, fair])
@settings(deadline=None, max_examples=40)
@given(graph=bound_graphs(), ports=st.integers(1, 3))
def test_shared_networks_keep_the_rules_of_streams(engine, graph, ports):
    """No op starts before its dependencies have arrived, or before the op in front of it has ended."""
    found = engine.run(graph, network_of(graph, ports))
    consumer = np.repeat(np.arange(len(graph)), np.diff(graph.dep_starts))
    assert (found.start[consumer] >= found.arrival).all()
    inner = np.setdiff1d(np.arange(1, len(graph)), graph.starts)
    assert (found.start[inner] >= found.end[inner - 1]).all()


@pytest.mark.parametrize("engine", [fifo, fair])
@settings(deadline=None, max_examples=40)
@given(graph=bound_graphs())
def test_transfers_that_share_nothing_are_as_on_the_ideal_network(engine, graph):
    """Without ports, and with infinite bandwidth (all lag is latency)."""
    ideal, apart = event.run(graph), network_of(graph, 0)
    endless = replace(network_of(graph, 1), dep_occupied=apart.dep_occupied * 0, dep_latency=apart.dep_occupied)
    endless = replace(endless, node_ports=apart.node_ports)
    for network in (apart, endless):
        found = engine.run(graph, network)
        assert found.end.tolist() == ideal.end.tolist()
        assert found.arrival.tolist() == ideal.arrival.tolist()


def three_messages(engine, hop_s, seconds_per_byte, share=1.0):
    """Arrivals of GPipe on two ranks whose ops take no time, so that three messages of 10 bytes leave at once."""
    program = create("gpipe").program(Setting(2, 3))
    priced = costs(program, 0, 0, 0, hop_s)
    sizes = replace(priced.sizes, message=np.full(2, 10.0))
    hops = replace(priced.hops, seconds_per_byte=np.full((2, 2), seconds_per_byte), port_share=np.full((2, 2), share))
    priced = replace(priced, sizes=sizes, hops=hops)
    graph = bind(lower(program, priced), priced)
    found = event.run(graph) if engine is event else engine.run(graph, traffic(graph, priced))
    return found.arrival[3:6].tolist()  # after the dependencies of rank 0, which receives gradients


@pytest.mark.parametrize(("engine", "expected"), [(event, [14, 14, 14]), (fifo, [14, 24, 34]), (fair, [34, 34, 34])])
def test_three_messages_at_once(engine, expected):
    """10 each, and a latency of 4: together, one after the other, or each at a third of the rate."""
    assert three_messages(engine, hop_s=4, seconds_per_byte=1e-12) == expected


@pytest.mark.parametrize(
    ("engine", "share", "expected"),
    [
        (event, 0.5, [14, 14, 14]),
        (fifo, 0.5, [14, 19, 24]),
        (fair, 0.5, [19, 19, 19]),
        (fair, 0.25, [14, 14, 14]),
        (fifo, 0.6, [14, 21, 28]),
        (fair, 0.6, [23, 23, 23]),
    ],
)
def test_three_messages_that_fill_a_part_of_their_port(engine, share, expected):
    """Alone 10 each, and a latency of 4. Of 0.6, rounded up in 1024ths, 6.01 are whole picoseconds later 7 of the port
    one after the other, and 18.02 at thirds 19.
    """
    assert three_messages(engine, hop_s=4, seconds_per_byte=1e-12, share=share) == expected


def test_the_ends_of_a_blocking_transfer_share_one_message():
    """A blocking transfer crosses its ports once: 1F1B takes as long as with the ideal network."""
    program = create("1f1b").program(Setting(2, 2))
    priced = costs(program, 3, 2, 1, 4)
    hops = replace(priced.hops, seconds_per_byte=np.full((2, 2), 5e-12))
    priced = replace(priced, sizes=replace(priced.sizes, message=np.ones(2)), hops=hops)
    graph = bind(lower(program, priced, Lowering(p2p="blocking")), priced)
    expected = event.run(graph)
    for engine in (fifo, fair):
        found = engine.run(graph, traffic(graph, priced))
        assert found.end.tolist() == expected.end.tolist()
        assert found.arrival.tolist() == expected.arrival.tolist()
