"""Clusters from plain values: defaults, inline replacements, and every problem at once."""

from __future__ import annotations

import pytest

from pipesim.errors import ConfigError
from pipesim.hardware import build_cluster, build_gpu, link
from pipesim.units import EXAMPLES


def problems(call):
    with pytest.raises(ConfigError) as caught:
        call()
    return {problem.path: problem for problem in caught.value.problems}


def test_links_and_cards_default_to_the_usual_node_of_the_gpu():
    cluster = build_cluster("a100-sxm-80gb", nodes=12)
    assert (cluster.intra_node.name, cluster.inter_node.name, cluster.nics_per_node) == (
        "nvlink3",
        "infiniband-hdr",
        8,
    )
    assert cluster.gpus == 96


@pytest.mark.parametrize(
    ("fabric", "gpus_per_node", "cards"),
    [
        ("infiniband-edr", 8, 4),  # DGX-1
        ("infiniband-edr", 16, 8),  # DGX-2
        ("infiniband-edr", 4, 2),  # ABCI, 4 V100 per node
        ("infiniband-edr", 1, 1),
        ("efa-p5", 8, 32),
        ("aries", 1, 1),
    ],
)
def test_cards_are_in_proportion_to_the_fabrics_usual_node(fabric, gpus_per_node, cards):
    cluster = build_cluster("v100-sxm2-32gb", gpus_per_node, 2, inter_node=fabric)
    assert cluster.nics_per_node == cards


def test_an_inline_gpu_keeps_what_it_does_not_replace():
    gpu = build_gpu({"base": "a100-sxm-80gb", "memory": "64 GB", "gemm": {"bf16": {"efficiency": 0.9}}})
    base = build_gpu("a100-sxm-80gb")
    assert gpu.memory_bytes == 64e9
    assert gpu.gemm_fit("bf16").efficiency == 0.9
    assert gpu.gemm_fit("bf16").overhead_s == base.gemm_fit("bf16").overhead_s
    assert (gpu.base, gpu.memory_bandwidth, gpu.gemm["fp16"]) == (
        base.base,
        base.memory_bandwidth,
        base.gemm["fp16"],
    )


def test_inline_links_have_no_measured_tables():
    cluster = build_cluster(
        "a100-sxm-80gb",
        nodes=2,
        intra_node={"bandwidth": "150 GB/s", "latency": "8 us"},
        inter_node={"bandwidth": "100 Gb/s", "latency": "20 us", "nics_per_node": 4},
    )
    assert (cluster.inter_node.bandwidth, cluster.inter_node.latency_s) == (12.5e9, 20e-6)
    assert cluster.nics_per_node == 4
    assert cluster.intra_node.catalog_name is None
    assert cluster.inter_node.catalog_name is None


def test_an_inline_link_can_start_from_the_catalog():
    cluster = build_cluster("a100-sxm-80gb", nodes=2, inter_node={"base": "infiniband-edr", "latency": "5 us"})
    assert cluster.inter_node.latency_s == 5e-6
    assert cluster.inter_node.bandwidth == link("infiniband-edr").bandwidth
    assert cluster.nics_per_node == 4


def test_a_gpu_alone_has_a_whole_card_and_all_together_their_share():
    cluster = build_cluster("a100-sxm-80gb", nodes=2, nics_per_node=4)
    card = cluster.inter_node.bandwidth
    assert [cluster.network_bandwidth(sending) / card for sending in (1, 2, 8)] == [1.0, 0.5, 0.5]


def test_a_gpu_with_four_cards_uses_all_of_them():
    cluster = build_cluster("h100-sxm-80gb", nodes=2, inter_node="efa-p5")
    assert cluster.network_bandwidth(1) == cluster.network_bandwidth(8) == 4 * cluster.inter_node.bandwidth


def test_all_problems_are_reported_at_once_with_their_paths():
    found = problems(
        lambda: build_cluster(
            {"base": "a100-sxm-80gb", "memory": "64 gb", "sm": 3, "elementwise": {"efficiency": 2}},
            gpus_per_node=0,
            nodes=True,
            intra_node="nvlink9",
            inter_node={"bandwidth": "12 GB", "nics_per_node": 0},
            nics_per_node=4,
        )
    )
    assert set(found) == {
        "cluster.gpus_per_node",
        "cluster.nodes",
        "cluster.gpu.memory",
        "cluster.gpu.sm",
        "cluster.gpu.elementwise.efficiency",
        "cluster.intra_node",
        "cluster.inter_node.bandwidth",
        "cluster.nics_per_node",
    }
    assert found["cluster.gpu.sm"].nearest == "sms"


@pytest.mark.parametrize("gpu", ["a100-sxm-80g", "A100-SXM-80GB", {"base": "a100-sxm80gb"}])
def test_a_misspelt_gpu_gets_the_nearest_name(gpu):
    (problem,) = problems(lambda: build_cluster(gpu)).values()
    assert problem.nearest == "a100-sxm-80gb"


@pytest.mark.parametrize("gpu", [None, 7, {}, {"memory": "80 GB"}, []])
def test_what_is_no_gpu_is_a_config_error(gpu):
    assert set(problems(lambda: build_cluster(gpu))) <= {"cluster.gpu", "cluster.gpu.base"}


@pytest.mark.parametrize("value", ["infiniband-hdr", 5, []])
def test_a_network_is_no_link_inside_a_node(value):
    assert set(problems(lambda: build_cluster("a100-sxm-80gb", intra_node=value or [1]))) == {"cluster.intra_node"}


def test_an_inline_link_needs_a_bandwidth():
    found = problems(lambda: build_cluster("a100-sxm-80gb", intra_node={"latency": "8 us"}))
    problem = found["cluster.intra_node.bandwidth"]
    assert (problem.message, problem.allowed) == ("is missing", EXAMPLES["bytes_per_s"])


def test_a_precision_the_chip_lacks_is_named_with_those_it_has():
    with pytest.raises(ConfigError, match=r"v100-sxm2-32gb does not compute.*'bf16'.*allowed: fp32, fp16"):
        build_gpu("v100-sxm2-32gb").peak("bf16")


def test_an_added_precision_needs_its_gemm_fit():
    assert "cluster.gpu.gemm.fp8.efficiency" in problems(
        lambda: build_gpu({"base": "a100-sxm-80gb", "peak": {"fp8": "624 TFLOP/s"}})
    )


def test_clusters_with_equal_values_are_equal_and_hash_alike():
    first, second = build_cluster("h100-sxm-80gb", nodes=2), build_cluster("h100-sxm-80gb", nodes=2)
    assert first == second
    assert hash(first) == hash(second)


def test_an_unknown_link_is_a_config_error():
    with pytest.raises(ConfigError, match="did you mean nvlink5"):
        link("nvlink9")
