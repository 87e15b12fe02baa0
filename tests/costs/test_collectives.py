"""Collectives: textbook formulas exactly, published measurements within stated errors."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipesim import catalog
from pipesim.costs.collectives import (
    OPERATIONS,
    Collectives,
    bus_factor,
    halving_all_reduce,
    ring_all_reduce,
    ring_hop_seconds,
    tree_all_reduce,
)
from pipesim.hardware import Group, build_cluster

MEASURED = Path(__file__).parents[1] / "data" / "collectives" / "measured.csv"
MIB = 2.0**20

a100 = Collectives(build_cluster("a100-sxm-80gb", nodes=4))


def rows(series: str, at_least_bytes: float = 0) -> list[dict[str, str]]:
    with MEASURED.open(newline="") as file:
        table = list(csv.DictReader(file))
    return [row for row in table if row["series"] == series and float(row["size_bytes"]) >= at_least_bytes]


def predicted(row: dict[str, str]) -> float:
    nodes, gpus = int(row["nodes"]), int(row["gpus"])
    cluster = build_cluster(row["gpu"], nodes=nodes, inter_node=row["fabric"] or None)
    group = Group(gpus, nodes, gpus // nodes)
    return Collectives(cluster).seconds(row["operation"], float(row["size_bytes"]), group) * 1e6


def errors(selected: list[dict[str, str]]) -> np.ndarray:
    return np.array([predicted(row) / float(row["time_us"]) - 1 for row in selected])


@pytest.mark.parametrize(
    ("series", "mean", "largest"),
    [
        # The tables come from another host and library version; 64 MiB and more, where gradients lie.
        ("a100 one node, stas00", 0.06, 0.14),
        ("a100 one node, vTrain", 0.03, 0.08),
        ("h100 one node, simumax", 0.025, 0.06),
        ("h200 one node, stas00", 0.05, 0.06),
        ("b200 one node, stas00", 0.06, 0.14),
        # No number of the model between nodes is fitted to all-reduces.
        ("h100 2 nodes, oci", 0.06, 0.07),
        ("h100 4 nodes, GTC24 (digitised)", 0.08, 0.17),
        # Latency of 1024 nodes is underestimated; at 64 MiB it is most of the time.
        ("h100 1024 nodes, GTC24 (digitised)", 0.21, 0.44),
        ("b200 4 nodes, stas00", 0.15, 0.43),
    ],
)
def test_large_measured_collectives_are_met(series, mean, largest):
    error = np.abs(errors(rows(series, 64 * MIB)))
    assert len(error) >= 4
    assert error.mean() < mean
    assert error.max() < largest


def test_collectives_of_all_sizes_are_of_the_right_order():
    # Down to 1 MiB, where hosts and NCCL versions differ by up to 3x: all-reduce on 8 A100 takes 93 us in
    # vTrain, 102 us in stas00, 39 us in the catalog's source.
    for series in (
        "a100 one node, stas00",
        "a100 one node, vTrain",
        "h100 one node, simumax",
        "h200 one node, stas00",
    ):
        ratio = 1 + errors(rows(series))
        assert ratio.min() > 0.2
        assert ratio.max() < 1.3
        assert np.median(ratio) == pytest.approx(1, abs=0.11)


def test_the_catalog_returns_its_own_numbers():
    # AIC A100, NCCL 2.27.3: 8 GPUs, 16 MiB, 216.5 us; peak bus bandwidth 222 GB/s at 512 MiB.
    node = Group(8, 1, 8)
    assert a100.seconds("all_reduce", 16 * MIB, node) == pytest.approx(216.5e-6, rel=1e-12)
    assert a100.bus_bandwidth("all_reduce", 512 * MIB, node) == pytest.approx(222e9, rel=2e-3)


def test_a_ring_sends_each_piece_around_twice():
    assert ring_all_reduce(8e9, 4, 1.0, 1e9) == 2 * 3 * (1.0 + 2.0)
    assert ring_all_reduce(8e9, 1, 1.0, 1e9) == 0.0


def test_a_tree_sends_the_whole_buffer_up_and_down():
    assert tree_all_reduce(8e9, 4, 1.0, 1e9) == 2 * 2 * (1.0 + 8.0)
    assert tree_all_reduce(8e9, 5, 1.0, 1e9) == 2 * 3 * (1.0 + 8.0)
    assert tree_all_reduce(8e9, 1, 1.0, 1e9) == 0.0


def test_halving_sends_as_much_as_a_ring_in_fewer_steps():
    assert halving_all_reduce(8e9, 4, 1.0, 1e9) == 2 * 2 * 1.0 + 12.0
    assert halving_all_reduce(8e9, 8, 0.0, 1e9) == ring_all_reduce(8e9, 8, 0.0, 1e9)


@pytest.mark.parametrize(
    ("operation", "expected"), [("all_reduce", 1.75), ("all_gather", 0.875), ("all_to_all", 0.875)]
)
def test_bus_factors_are_those_of_nccl_tests(operation, expected):
    assert bus_factor(operation, 8) == expected


@pytest.mark.parametrize("operation", OPERATIONS)
def test_alone_or_with_nothing_to_send_there_is_no_communication(operation):
    assert a100.seconds(operation, 1e9, Group(1, 1, 1)) == 0.0
    assert a100.seconds(operation, 0.0, Group(16, 2, 8)) == 0.0


def test_an_inline_link_is_latency_and_bandwidth():
    cluster = build_cluster("a100-sxm-80gb", intra_node={"bandwidth": "150 GB/s", "latency": "8 us"})
    # All-gather among 4: the link's latency, two further NCCL hops of 1.9 us, and 3/4 of the buffer.
    expected = 8e-6 + 2 * 1.9e-6 + 0.75 * 1e9 / 150e9
    assert Collectives(cluster).seconds("all_gather", 1e9, Group(4, 1, 4)) == pytest.approx(expected, rel=1e-12)


def test_a_cut_link_moves_bytes_slower_but_starts_as_fast():
    cut, node = Collectives(build_cluster("a800-sxm-80gb")), Group(8, 1, 8)
    assert cut.seconds("all_reduce", 100 * MIB, node) == a100.seconds("all_reduce", 150 * MIB, node)
    assert cut.seconds("all_reduce", 1.0, node) == a100.seconds("all_reduce", 1.0, node)


def test_between_nodes_a_large_all_reduce_runs_at_the_rate_of_the_cards():
    # More than two nodes: the ring's bus bandwidth is the node's cards, 8 x 23.5 GB/s; NVIDIA quotes 192.
    assert a100.bus_bandwidth("all_reduce", 64e9, Group(32, 4, 8)) == pytest.approx(8 * 23.5e9, rel=2e-3)


def test_between_nodes_one_gpu_has_its_share_of_the_cards():
    half = Collectives(build_cluster("a100-sxm-80gb", nodes=4, nics_per_node=4))
    assert half.bus_bandwidth("reduce_scatter", 64e9, Group(4, 4, 1)) == pytest.approx(23.5e9 / 2, rel=2e-3)


def test_all_to_all_between_nodes_is_bound_by_what_leaves_the_node():
    # AWS p5, NCCL: 81 GB/s on 2 nodes, 45-58 on many.
    p5 = Collectives(build_cluster("h100-sxm-80gb", nodes=16, inter_node="efa-p5"))
    assert p5.bus_bandwidth("all_to_all", 8e9, Group(16, 2, 8)) == pytest.approx(81e9, rel=0.03)
    assert p5.bus_bandwidth("all_to_all", 8e9, Group(128, 16, 8)) == pytest.approx(45e9, rel=0.03)


def test_v100_groups_that_do_not_fit_the_cube_mesh_are_slow():
    v100 = Collectives(build_cluster("v100-sxm2-32gb"))
    rates = [v100.bus_bandwidth("all_reduce", 2.0**30, Group(n, 1, n)) / 1e9 for n in (4, 5, 8)]
    assert rates == pytest.approx([85.4, 37.2, 134.5], rel=2e-3)


def test_an_operation_without_a_table_takes_half_an_all_reduce():
    v100, node = Collectives(build_cluster("v100-sxm2-32gb")), Group(8, 1, 8)
    assert v100.seconds("all_gather", 1e8, node) == v100.seconds("all_reduce", 1e8, node) / 2


def test_arrays_give_the_same_as_numbers():
    sizes = np.array([0.0, 1.0, 1e6, 1e9, 1e11])
    group = Group(32, 4, 8)
    for operation in OPERATIONS:
        times = a100.seconds(operation, sizes, group)
        assert times.tolist() == [a100.seconds(operation, float(size), group) for size in sizes]


def test_an_unknown_operation_is_refused():
    with pytest.raises(ValueError, match="unknown collective 'gossip'"):
        a100.seconds("gossip", 1.0, Group(8, 1, 8))


def test_the_linear_form_meets_the_table_at_both_ends():
    latency_s, seconds_per_byte = a100.linear("all_gather", Group(8, 1, 8))
    for size in (MIB, 64 * MIB):
        exact = a100.seconds("all_gather", size, Group(8, 1, 8))
        assert latency_s + size * seconds_per_byte == pytest.approx(exact, rel=1e-9)


clusters = st.sampled_from(["a100-sxm-80gb", "v100-sxm2-32gb", "h800-sxm-80gb", "b200-sxm-180gb", "h100-pcie-80gb"])
groups = st.one_of(
    st.integers(2, 16).map(lambda n: Group(n, 1, n)),
    st.tuples(st.integers(2, 64), st.integers(1, 8)).map(lambda g: Group(g[0] * g[1], g[0], g[1])),
)


@settings(max_examples=60)
@given(clusters, st.sampled_from(OPERATIONS), groups, st.floats(1, 1e11), st.floats(1, 10))
def test_a_larger_buffer_never_takes_less_time(gpu, operation, group, size, factor):
    collectives = Collectives(build_cluster(gpu, nodes=2))
    small, large = (collectives.seconds(operation, bytes_, group) for bytes_ in (size, size * factor))
    assert 0 < small <= large * (1 + 1e-12)


@settings(max_examples=60)
@given(st.sampled_from(OPERATIONS), st.integers(2, 64), st.floats(1, 1e11))
def test_faster_cards_never_make_it_slower(operation, nodes, size):
    group = Group(8 * nodes, nodes, 8)
    slow, fast = (
        Collectives(build_cluster("a100-sxm-80gb", nodes=nodes, nics_per_node=cards)).seconds(operation, size, group)
        for cards in (4, 8)
    )
    assert fast <= slow


@pytest.mark.parametrize("name", [name for name in catalog.names("links") if not name.startswith(("inf", "efa"))])
def test_every_link_inside_a_node_has_collectives(name):
    if catalog.load("links")[name]["kind"] != "network":
        cluster = build_cluster("a100-sxm-80gb", intra_node=name)
        assert all(Collectives(cluster).seconds(operation, 1e8, Group(8, 1, 8)) > 0 for operation in OPERATIONS)
        assert name in catalog.names("collectives")


@given(
    st.sampled_from([Group(8, 1, 8), Group(2, 1, 2), Group(16, 2, 8), Group(32, 4, 8), Group(4, 4, 1)]),
    st.sampled_from(OPERATIONS),
    st.floats(1.0, 1e11),
)
def test_links_are_busy_for_at_most_as_long_as_it_takes(group, operation, size):
    assert 0 < a100.busy_seconds(operation, size, group) <= a100.seconds(operation, size, group)


def test_a_large_collective_keeps_the_slowest_links_busy():
    # All but the latency on four nodes; on two, which swap the buffer, the cards wait for NVLink.
    ring, fast_network = Group(32, 4, 8), Group(16, 2, 8)
    assert a100.busy_seconds("reduce_scatter", 64e9, ring) / a100.seconds("reduce_scatter", 64e9, ring) > 0.998
    swap_s = 64e9 / (8 * 23.5e9)
    assert a100.busy_seconds("all_reduce", 64e9, fast_network) == pytest.approx(swap_s, rel=1e-12)
    assert swap_s < 0.9 * a100.seconds("all_reduce", 64e9, fast_network)


def test_rings_over_two_nodes_send_twice_what_trees_swap():
    # Of 16 GPUs each sends 2 x 15/16 of its share of the buffer on a ring; two GPUs swap it on a ring as well.
    old, new = (Collectives(build_cluster("a100-sxm-80gb", nodes=4), old) for old in (True, False))
    sixteen = Group(16, 2, 8)
    busy = [collectives.busy_seconds("all_reduce", 1e9, sixteen) for collectives in (old, new)]
    assert busy[0] / busy[1] == pytest.approx(2 * 15 / 16)
    assert old.seconds("all_reduce", 1e9, sixteen) > new.seconds("all_reduce", 1e9, sixteen)
    for group in (Group(2, 2, 1), Group(32, 4, 8)):
        assert old.seconds("all_reduce", 1e9, group) == new.seconds("all_reduce", 1e9, group)


@pytest.mark.parametrize("group", [Group(1, 1, 1), Group(8, 1, 8), Group(16, 2, 8)])
def test_nothing_sent_keeps_nothing_busy(group):
    assert a100.busy_seconds("all_reduce", 0.0, group) == 0
    assert a100.busy_seconds("all_reduce", 1e9, Group(1, 1, 1)) == 0


def test_a_hop_of_a_ring_is_a_message_over_the_link():
    """Inside a node one NVLink; between nodes each group leaves by one GPU, so 4 groups of 2 share 8 cards, of which
    four channels can fill two, 47 GB/s, and one channel 14.
    """
    cluster = build_cluster("a100-sxm-80gb", nodes=2)
    inside, outside = cluster.intra_node, cluster.inter_node
    assert ring_hop_seconds(cluster, Group(8, 1, 8), 1e9, 2) == inside.latency_s + 1e9 / inside.bandwidth
    for channels, reached in ((4, cluster.network_bandwidth(4)), (1, 14e9)):
        expected = outside.latency_s + 1e9 / reached
        assert ring_hop_seconds(cluster, Group(4, 2, 2), 1e9, channels) == expected
