"""Hops between pipeline ranks: which link, how fast, which port."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesim.costs.collectives import Collectives
from pipesim.costs.links import (
    collective_part,
    crosses_nodes,
    describe_hop,
    hop_table,
    pipeline_hops,
    rank_ports,
)
from pipesim.hardware import Group, Layout, build_cluster

small = st.integers(1, 4)
orders = st.permutations(["tp", "cp", "dp", "pp"]).map("-".join)


def cluster(nodes: int = 4, **options):
    return build_cluster("a100-sxm-80gb", nodes=nodes, **options)


# Microseconds of NCCL send/receive inside a DGX A100 by bytes (microsoft/vidur data/profiling/network/a100_dgx).
SEND_RECEIVE = {
    2048: 8,
    10240: 10,
    18432: 13,
    34816: 14,
    67584: 16,
    133120: 17,
    264192: 17,
    526336: 17,
    1048576: 17,
    2097152: 20,
    4194304: 25,
    8388608: 36,
    16777216: 65,
    33554432: 132,
}


@pytest.mark.parametrize(("size", "microseconds"), SEND_RECEIVE.items())
def test_a_hop_inside_a_node_takes_what_it_was_measured_to_take(size, microseconds):
    """Start-up times of nine sizes are in the catalog; the others are within 6 %, whole microseconds as they are."""
    hops = pipeline_hops(cluster(), Layout(8), message_bytes=size)
    predicted = hops.latency_s[0, 1] + size * hops.seconds_per_byte[0, 1]
    assert predicted * 1e6 == pytest.approx(microseconds, rel=0.06, abs=0.5)


def test_between_nodes_a_message_starts_after_tens_of_microseconds():
    """NCCL send/receive: 31 to 34 us on InfiniBand (NVIDIA/nccl-tests issue 214), 46 us on AWS p5 at 8 bytes."""
    hdr, p5 = cluster(2), build_cluster("h100-sxm-80gb", nodes=2, inter_node="efa-p5")
    starts = [float(pipeline_hops(each, Layout(16), message_bytes=8.0).latency_s[0, 8]) for each in (hdr, p5)]
    assert starts == [30e-6, 46e-6]


def test_eight_stages_of_one_gpu_share_a_node():
    links = [hop.link for hop in hop_table(cluster(2), Layout(16))]
    assert links == ["nvlink3"] * 7 + ["infiniband-hdr"] + ["nvlink3"] * 7 + ["infiniband-hdr"]


def test_stages_of_a_whole_node_meet_over_the_network():
    hop = hop_table(cluster(), Layout(4, tensor=8), sequence_parallel=True)[0]
    assert describe_hop(hop) == "rank 0 -> 1 over infiniband-hdr: 30.0 us + 188 GB/s"


def test_messages_reach_what_their_channels_carry():
    """One channel of old NCCL 14 GB/s, two fill the card; two of H100 carry 42 of 47 GB/s; AWS: four cards a GPU."""
    a100, h100 = cluster(2), build_cluster("h100-sxm-80gb", nodes=2)
    p5 = build_cluster("h100-sxm-80gb", nodes=2, inter_node="efa-p5")
    for where, old, reached in ((a100, True, 14e9), (a100, False, 23.5e9), (h100, False, 42e9), (p5, True, 42.4e9)):
        hops = pipeline_hops(where, Layout(16), old_nccl=old)
        assert 1 / hops.seconds_per_byte[0, 8] == pytest.approx(reached, rel=1e-12)
        assert hops.port_share[0, 8] == pytest.approx(reached / where.network_bandwidth(1), rel=1e-12)
        assert hops.port_share[0, 1] == 1


def test_the_slower_end_counts():
    """Three GPUs of a rank share a card of their node, of rank 2 only two: 2 -> 3 is as slow as 3 -> 2."""
    where = cluster(2, nics_per_node=1)
    hops = pipeline_hops(where, Layout(4, tensor=3), scatter_gather=False)
    assert 1 / hops.seconds_per_byte[[2, 3], [3, 2]] == pytest.approx([where.network_bandwidth(3)] * 2, rel=1e-12)
    assert hops.port_share[[2, 3], [3, 2]].tolist() == [1, 1]


def test_hops_for_people_are_those_that_are_priced():
    """With the NCCL of the run: eight channels of 14 GB/s, or eight cards of 23.5."""
    speeds = [
        1 / hop_table(cluster(2), Layout(2, tensor=8), False, True, old)[0].seconds_per_byte for old in (True, False)
    ]
    assert speeds == pytest.approx([8 * 14e9, 8 * 23.5e9], rel=1e-12)


@pytest.mark.parametrize(
    ("given", "reached"),
    [
        ({"bandwidth": "100 GB/s", "latency": "5 us"}, 100e9),
        ({"base": "infiniband-ndr", "bandwidth": "45 GB/s"}, 45e9),
        ({"base": "infiniband-ndr", "latency": "5 us"}, 42e9),
    ],
)
def test_messages_reach_the_bandwidth_that_a_config_states(given, reached):
    """Whatever NCCL does; one of the catalog is what collectives reach."""
    where = build_cluster("h100-sxm-80gb", nodes=2, inter_node={**given, "nics_per_node": 8})
    for old in (False, True) if "bandwidth" in given else (False,):
        hops = pipeline_hops(where, Layout(16), old_nccl=old)
        assert 1 / hops.seconds_per_byte[0, 8] == pytest.approx(reached, rel=1e-12)


def test_cards_that_gpus_share_can_be_slower_than_channels():
    """Eight GPUs of a node behind one card have 2.9 GB/s each, whatever NCCL does."""
    hops = pipeline_hops(cluster(2, nics_per_node=1), Layout(2, tensor=8), old_nccl=True)
    assert hops.port_share[0, 1] == 1


def test_with_sequence_parallelism_each_gpu_sends_its_part_over_its_own_card():
    hops = pipeline_hops(cluster(), Layout(4, tensor=8), sequence_parallel=True)
    assert hops.seconds_per_byte[0, 1] == pytest.approx(1 / (8 * 23.5e9), rel=1e-12)
    assert hops.latency_s[0, 1] == 30e-6


def test_without_scatter_gather_every_gpu_sends_the_whole_message():
    hops = pipeline_hops(cluster(), Layout(4, tensor=8), scatter_gather=False)
    assert hops.seconds_per_byte[0, 1] == pytest.approx(1 / 23.5e9, rel=1e-12)


def test_scatter_gather_adds_an_all_gather_among_the_receivers():
    latency_s, seconds_per_byte = Collectives(cluster()).linear("all_gather", Group(8, 1, 8))
    hops = pipeline_hops(cluster(), Layout(4, tensor=8))
    assert hops.latency_s[0, 1] == pytest.approx(30e-6 + latency_s, rel=1e-12)
    assert hops.seconds_per_byte[0, 1] == pytest.approx(1 / (8 * 23.5e9) + seconds_per_byte, rel=1e-12)


def test_without_tensor_parallelism_the_options_make_no_difference():
    plain = pipeline_hops(cluster(), Layout(16), scatter_gather=False)
    for options in ({"scatter_gather": True}, {"sequence_parallel": True}):
        hops = pipeline_hops(cluster(), Layout(16), **options)
        assert np.array_equal(hops.seconds_per_byte, plain.seconds_per_byte)


@pytest.mark.parametrize(
    ("cards", "layout", "cards_each"),
    [
        (8, Layout(16), 1.0),
        (4, Layout(16), 1.0),  # one GPU of the node sends: a whole card
        (4, Layout(4, tensor=8), 4 / 8),  # eight send
        (4, Layout(4, data=8), 4 / 8),  # eight replicas send at the same time
        (4, Layout(8, tensor=4), 4 / 8),  # four GPUs with the two cards next to them
        (1, Layout(8, tensor=4), 1 / 4),
    ],
)
def test_gpus_that_send_at_once_share_the_cards(cards, layout, cards_each):
    hops = pipeline_hops(cluster(nics_per_node=cards), layout, scatter_gather=False)
    crossing = crosses_nodes(layout)
    assert np.unique(hops.seconds_per_byte[crossing]) == pytest.approx([1 / (cards_each * 23.5e9)], rel=1e-12)


def test_ranks_of_one_node_that_share_a_card_share_its_port():
    hops = pipeline_hops(cluster(2, nics_per_node=4), Layout(16))
    to_node_1, inside = hops.send_port[:8, 12], hops.send_port[np.arange(7), np.arange(1, 8)]
    assert len(set(to_node_1)) == 4
    assert to_node_1[0] == to_node_1[1] != to_node_1[2]
    assert len(set(inside)) == 7


def test_a_rank_sends_and_receives_on_different_ports_of_each_link():
    hops = pipeline_hops(cluster(2), Layout(16))
    ports = [hops.send_port[1, 2], hops.send_port[1, 9], hops.receive_port[2, 1], hops.receive_port[9, 1]]
    assert len(set(ports)) == 4
    assert hops.send_port[1, 2] == hops.send_port[1, 3]


def test_a_rank_does_not_send_to_itself():
    hops = pipeline_hops(cluster(), Layout(8, tensor=2))
    for matrix, nothing in (
        (hops.latency_s, 0),
        (hops.seconds_per_byte, 0),
        (hops.send_port, -1),
        (hops.receive_port, -1),
    ):
        assert (np.diagonal(matrix) == nothing).all()
    assert hop_table(cluster(), Layout(1)) == []


def test_a_layout_for_other_nodes_is_refused():
    with pytest.raises(ValueError, match="layout has 4 GPUs per node, cluster 8"):
        pipeline_hops(cluster(), Layout(4, gpus_per_node=4))


def test_six_gpus_per_stage_cross_in_some_replica_so_the_hop_crosses():
    # GPU 0 and 6 share a node, GPU 2 and 8 do not: the slowest replica counts.
    assert crosses_nodes(Layout(4, data=6))[0, 1]


@given(small, small, small, small, orders, st.integers(1, 9))
def test_crossing_is_what_comparing_all_gpus_gives(pipeline, tensor, data, context, order, per_node):
    layout = Layout(pipeline, tensor, data, context, 1, per_node, order)
    nodes = layout.gpus().reshape(pipeline, -1) // per_node
    expected = (nodes[:, None, :] != nodes[None, :, :]).any(axis=2)
    assert np.array_equal(crosses_nodes(layout), expected)


@given(small, small, small, small, orders)
def test_hops_cost_the_same_both_ways(pipeline, tensor, data, context, order):
    hops = pipeline_hops(cluster(64), Layout(pipeline, tensor, data, context, order=order))
    assert np.array_equal(hops.seconds_per_byte, hops.seconds_per_byte.T)
    assert (hops.seconds_per_byte[~np.eye(pipeline, dtype=bool)] > 0).all()


def test_512_ranks_of_64_gpus_are_placed_at_once():
    hops = pipeline_hops(cluster(4096), Layout(512, tensor=8, data=8))
    assert hops.latency_s.shape == (512, 512)
    assert hops.send_port.dtype == np.int32


def test_collectives_use_the_ports_that_hops_use():
    layout = Layout(4, tensor=4)
    hops = pipeline_hops(cluster(2), layout)
    inside, outside = (rank_ports(cluster(2), layout, crossing) for crossing in (False, True))
    assert inside[0].tolist() == [hops.send_port[0, 1], hops.receive_port[1, 0]]
    assert outside[0].tolist() == [hops.send_port[0, 2], hops.receive_port[2, 0]]


@pytest.mark.parametrize(
    ("cards", "layout", "part"), [(8, Layout(16), 1.0), (4, Layout(16), 0.5), (4, Layout(8, 2), 1.0)]
)
def test_a_rank_that_shares_a_card_has_its_part_of_it_for_collectives(cards, layout, part):
    """A GPU alone sends on a whole card, but in a collective its neighbour sends as well."""
    assert collective_part(cluster(2, nics_per_node=cards), layout).tolist() == [part] * layout.pipeline
