"""Tokens reach their experts as fast as DeepEP's kernels bring them, and visit as many places as they must."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesim.costs.collectives import Collectives
from pipesim.costs.dispatch import all_to_all_seconds, deduplicated_seconds, probabilities_seconds, visits
from pipesim.costs.kernels import layer_kernels
from pipesim.costs.layer import OVERLAP_PRICE, LayerCosts
from pipesim.hardware import Group, Layout, build_cluster
from pipesim.workload.load import model_from_catalog
from pipesim.workload.model import Experts
from pipesim.workload.shard import Shard
from pipesim.workload.training import Training

DEEPSEEK = model_from_catalog("deepseek-v3")
TOKENS = 4096 * 7168


def group(nodes: int) -> Group:
    return Group(8 * nodes, nodes, 8)


# deepseek-ai/DeepEP docs/legacy.md: H800, 4096 tokens per GPU, 7168 hidden, top-8 of 4 groups; GB/s of the tokens sent
# to distinct nodes (NVLink inside one: received by distinct GPUs), the own one included (tests/test_internode.py).
# Dispatch in fp8 with a scale per 128 elements, combine in bf16.
DEEPEP = [(1, 153, 158), (2, 43, 43), (4, 58, 57), (8, 51, 50)]


@pytest.mark.parametrize(("nodes", "dispatch", "combine"), DEEPEP)
def test_deduplicated_dispatch_is_as_fast_as_deepep(nodes, dispatch, combine):
    """Nothing is fitted: bandwidths of links and an all-to-all table; 14 % on two nodes, 9 % otherwise."""
    moe, collectives = DEEPSEEK.moe, Collectives(build_cluster("h800-sxm-80gb", nodes=nodes))
    visited = visits(moe, group(nodes))
    copies = visited.gpus if nodes == 1 else visited.nodes
    for held, measured in ((TOKENS * (1 + 4 / 128), dispatch), (TOKENS * 2, combine)):
        rate = copies * held / deduplicated_seconds(collectives, moe, group(nodes), held)
        assert rate / 1e9 == pytest.approx(measured, rel=0.15 if nodes == 2 else 0.09)


def test_visited_places_are_counted_exactly():
    """All choices of 2 among 8 experts on 4 places: 4 of 28 pairs share one."""
    places = [len({expert // 2 for expert in pair}) for pair in combinations(range(8), 2)]
    assert visits(Experts(8, 2, 1), Group(4, 4, 1)).nodes == pytest.approx(sum(places) / len(places), rel=1e-12)


def test_a_node_limit_bounds_what_a_token_visits():
    """DeepSeek-V3: at most 4 of 8 nodes; without the limit 5.3 of them."""
    limited, free = (visits(replace(DEEPSEEK.moe, node_limit=limit), group(8)) for limit in (4, 0))
    assert limited.nodes < 4
    assert free.nodes == pytest.approx(5.3, abs=0.05)


@given(st.integers(1, 8), st.integers(1, 16), st.sampled_from([1, 2, 4, 8]), st.integers(0, 8))
def test_a_token_visits_between_one_place_and_all_of_them(top_k, per_gpu, nodes, limit):
    moe = Experts(8 * nodes * per_gpu, min(top_k, 8 * per_gpu), 64, node_limit=limit)
    visited = visits(moe, group(nodes))
    assert 1 - 1e-9 <= visited.nodes <= min(limit or nodes, nodes) + 1e-9
    assert visited.nodes - 1e-9 <= visited.gpus <= moe.top_k + 1e-9


@pytest.mark.parametrize("nodes", [1, 2, 8])
def test_deduplication_sends_less_than_an_all_to_all_of_every_copy(nodes):
    moe, collectives = DEEPSEEK.moe, Collectives(build_cluster("h100-sxm-80gb", nodes=nodes))
    arguments = (collectives, moe, group(nodes), 2.0 * TOKENS)
    assert deduplicated_seconds(*arguments) < all_to_all_seconds(*arguments)


def test_one_gpu_dispatches_nothing():
    collectives = Collectives(build_cluster("h100-sxm-80gb"))
    assert deduplicated_seconds(collectives, DEEPSEEK.moe, Group(1, 1, 1), 1e6) == 0.0


def layer(**training):
    cluster, layout = build_cluster("h100-sxm-80gb", nodes=8), Layout(1, data=64, expert=64)
    return LayerCosts(DEEPSEEK, cluster, layout, Training(micro_batch=1, **training)).layer(True)


def test_communication_of_experts_hides_behind_products_of_another_micro_batch():
    """Products in between are longer, so only the price of overlapping is left."""
    plain, hidden = (layer(dispatch="deduplicated", expert_overlap=overlap) for overlap in (False, True))
    assert hidden.forward.collective_s == pytest.approx(0.0, abs=1e-15)
    saved = plain.forward.seconds - hidden.forward.seconds
    assert saved == pytest.approx((1 - OVERLAP_PRICE) * plain.forward.collective_s, rel=1e-12)
    assert hidden.weight_grad == plain.weight_grad


def test_what_is_longer_than_the_products_stays_visible():
    """An all-to-all over eight nodes takes longer than the products of a forward."""
    plain, hidden = (layer(expert_overlap=overlap) for overlap in (False, True))
    assert 0 < hidden.input_grad.collective_s < plain.input_grad.collective_s


def test_an_all_to_all_sends_probabilities_after_their_tokens():
    """Once in either direction, besides tokens that go there and back."""
    cluster, layout = build_cluster("h100-sxm-80gb", nodes=8), Layout(1, data=64, expert=64)
    collectives, everywhere, moe = Collectives(cluster), layout.group("expert"), DEEPSEEK.moe
    tokens = all_to_all_seconds(collectives, moe, everywhere, 2.0 * TOKENS)
    apart = probabilities_seconds(collectives, moe, everywhere, 4096)
    assert layer().forward.collective_s == pytest.approx(2 * tokens + apart, rel=1e-12)
    assert 0 < apart < tokens / 10


@pytest.mark.parametrize(
    ("precision", "dispatch", "copies"),
    [("fp8", "all-to-all", 2), ("fp8", "deduplicated", 0), ("bf16", "all-to-all", 0)],
)
def test_only_what_an_all_to_all_brings_is_copied_into_groups_that_fp8_products_can_take(precision, dispatch, copies):
    """Before and after the experts, top-8 copies of every token read and written."""
    shard = Shard(expert=8)
    plain, padded = (
        layer_kernels(DEEPSEEK, Training(micro_batch=1, precision=each, dispatch=dispatch), shard, True).forward()
        for each in ("bf16", precision)
    )
    assert padded.kernels - plain.kernels == copies
    assert padded.moved_bytes - plain.moved_bytes == pytest.approx(copies * 2 * 2 * 8 * TOKENS, rel=1e-9)
