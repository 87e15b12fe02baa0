"""A mixture of experts has more kernels than a dense layer, and the host takes so many times longer to launch it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipesim.costs.launches import DENSE, mixture_ratio, routing_kernels
from pipesim.costs.layer import LayerCosts
from pipesim.hardware import Layout, build_cluster
from pipesim.workload.load import model_from_catalog
from pipesim.workload.model import Experts
from pipesim.workload.shard import Shard
from pipesim.workload.training import Training

EXPERTS = Experts(experts=16, top_k=2, ffn=64)
TINY = replace(
    model_from_catalog("llama-3-8b"), hidden=256, heads=4, kv_heads=4, head_dim=64, ffn=256, sequence=256, moe=EXPERTS
)

# Kernels of a forward: dispatch, expert-parallel ways, count.
COUNTS = [
    ("all-to-all", 1, 8 + 31 + 4 + 3 + 1 + 1),
    ("all-to-all", 8, 8 + 31 + 10 + 4 + 3 + 4 + 3 + 1 + 1),
    ("all-to-all", 16, 8 + 31 + 10 + 4 + 3 + 3 + 1 + 1),
    ("deduplicated", 8, 8 + 17 + 4 + 2 + 3 + 1 + 1),
]


def layer(mixture, **training):
    cluster, layout = build_cluster("b200-sxm-180gb"), Layout(1, data=8, expert=8)
    return LayerCosts(TINY, cluster, layout, Training(micro_batch=1, **training)).layer(mixture)


def backward_s(times):
    return times.input_grad.seconds + times.weight_grad.seconds


@pytest.mark.parametrize(("dispatch", "ways", "kernels"), COUNTS)
def test_kernels_are_counted_part_by_part(dispatch, ways, kernels):
    """Attention, router, counts, permutation, exchanges, sorting by expert where there are several, experts, ends."""
    assert mixture_ratio(EXPERTS, Shard(expert=ways), dispatch) == kernels / DENSE


@pytest.mark.parametrize("dispatch", ["all-to-all", "deduplicated"])
def test_the_launch_floor_of_a_mixture_is_the_dense_one_times_its_kernels(dispatch):
    dense, mixture = (layer(kind, dispatch=dispatch) for kind in (False, True))
    ratio = mixture_ratio(EXPERTS, Shard(expert=8), dispatch)
    assert mixture.forward.seconds == pytest.approx(ratio * dense.forward.seconds, rel=1e-12)
    assert backward_s(mixture) == pytest.approx(ratio * backward_s(dense), rel=1e-12)


def test_with_cuda_graphs_nothing_bounds_launches():
    assert layer(True, launch_floor=False).forward.seconds < layer(True).forward.seconds / 10


@pytest.mark.parametrize(
    ("dispatch", "ways", "kernels"),
    [("all-to-all", 1, 31 + 3), ("all-to-all", 8, 31 + 10 + 3 + 2), ("all-to-all", 16, 31 + 10 + 3),
     ("deduplicated", 1, 31 + 3), ("deduplicated", 8, 17 + 3)],
)  # fmt: skip
def test_routing_is_the_router_and_the_counts_and_the_places(dispatch, ways, kernels):
    """Nothing that moves tokens; one GPU sends to none, whatever the dispatch."""
    assert routing_kernels(EXPERTS, Shard(expert=ways), dispatch) == kernels
