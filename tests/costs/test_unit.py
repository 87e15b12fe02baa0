"""Costs given by hand end up where they belong."""

from __future__ import annotations

import pytest

from pipesim.costs.unit import unit_costs
from pipesim.errors import ConfigError


def test_a_number_is_a_ranks_whole_share_and_a_chunk_costs_its_part():
    costs = unit_costs(stages=8, ranks=4, forward=1, input_grad=2, weight_grad=3, activation=4, chunks=2)
    assert costs.times.forward.tolist() == [0.5] * 8
    assert costs.times.input_grad.tolist() == [1.0] * 8
    assert costs.times.weight_grad.tolist() == [1.5] * 8
    assert costs.sizes.activations.tolist() == [2.0] * 8


def test_a_list_is_each_stages_own_cost():
    costs = unit_costs(stages=4, ranks=2, forward=[1, 2, 3, 4], chunks=2)
    assert costs.times.forward.tolist() == [1, 2, 3, 4]


def test_weight_grad_share_is_what_w_still_needs():
    costs = unit_costs(stages=2, ranks=2, activation=2.0, weight_grad_share=0.25)
    assert costs.sizes.weight_grad_activations.tolist() == [0.5, 0.5]


def test_hops_are_latency_alone():
    costs = unit_costs(stages=2, ranks=2, p2p=0.5)
    assert costs.hops.latency_s[0, 1] == 0.5
    assert costs.hops.seconds_per_byte.max() == 0


def test_there_is_no_hardware_in_sight():
    costs = unit_costs(stages=3, ranks=3)
    assert costs.capacity_bytes is None
    nothing = (
        costs.sizes.weights,
        costs.sizes.gradients,
        costs.sizes.optimizer,
        costs.times.optimizer,
        costs.buffers_bytes,
    )
    assert all(not array.any() for array in nothing)


def test_all_bad_values_are_reported_at_once():
    with pytest.raises(ConfigError) as error:
        unit_costs(2, 2, forward=-1, input_grad=[1, 2, 3], weight_grad=float("nan"), weight_grad_share=2)
    assert [problem.path for problem in error.value.problems] == [
        "costs.forward",
        "costs.input_grad",
        "costs.weight_grad",
        "memory.weight_grad_share",
    ]


def test_a_bad_entry_of_a_list_is_named():
    with pytest.raises(ConfigError, match=r"costs\.forward\[1\]"):
        unit_costs(2, 2, forward=[1, -2])
