"""What the differences between boards of one kind cost a job."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pipesim.costs.layer import LayerCosts
from pipesim.costs.spread import slowest
from pipesim.hardware import Layout
from pipesim.hardware.cluster import build_cluster
from pipesim.workload.load import model_from_catalog
from pipesim.workload.training import Training

# Expected largest of n standard normal values: 1 / sqrt(pi) for two, the others from tables (Harter 1961).
LARGEST = {1: 0.0, 2: 1 / math.sqrt(math.pi), 5: 1.16296, 10: 1.53875, 100: 2.50759, 400: 2.96818}


@pytest.mark.parametrize(("gpus", "deviations"), LARGEST.items())
def test_the_slowest_is_the_expected_largest_of_a_sample(gpus, deviations):
    """Within 5 %, the error of the approximation for two; one alone is a usual one."""
    assert (slowest(0.02, gpus) - 1) / 0.02 == pytest.approx(deviations, rel=0.05, abs=1e-12)


def layer(gpu, data, spread=None):
    cluster = build_cluster(gpu, nodes=data)
    if spread is not None:
        cluster = replace(cluster, gpu=replace(cluster.gpu, spread=spread))
    return LayerCosts(
        model_from_catalog("llama-3-70b"), cluster, Layout(1, tensor=8, data=data), Training(4, 4 * data)
    ).layer()


@pytest.mark.parametrize("phase", ["forward", "input_grad", "weight_grad"])
def test_products_and_attention_of_larger_jobs_are_slower_and_communication_is_not(phase):
    """By the factor of the slowest of all GPUs; what is memory bound does not depend on the clock."""
    usual, eight, many = (
        getattr(layer("h100-sxm-80gb", data, spread), phase) for data, spread in ((1, 0), (1, None), (64, None))
    )
    assert usual.collective_s == eight.collective_s == many.collective_s
    bound = (usual.seconds - usual.collective_s) * (slowest(0.015, 512) - 1)
    assert usual.seconds < eight.seconds < many.seconds <= usual.seconds + bound * (1 + 1e-9)
    assert many.seconds > usual.seconds + 0.8 * bound


def test_boards_at_their_highest_clock_do_not_differ():
    """A100s reach 0.87 of a peak that is stated at the highest clock."""
    assert layer("a100-sxm-80gb", 1) == layer("a100-sxm-80gb", 64)
