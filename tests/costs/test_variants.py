"""Costs of micro-batches that are not all alike: each has its own, and the step has their mean."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipesim.costs.unit import unit_costs
from pipesim.costs.variants import mixed, scaled

BASE = unit_costs(3, 3, forward=[1, 2, 3], activation=[4, 5, 6], weight_grad_share=0.5, offload=2.0, optimizer=7.0)


def test_equal_micro_batches_have_the_very_costs_of_one():
    """Nothing is averaged, so that nothing is rounded."""
    assert mixed([5, 5, 5], lambda kind: BASE) is BASE


def test_a_kind_is_priced_once_and_every_micro_batch_knows_its_own():
    asked = []

    def price(kind):
        asked.append(kind)
        return scaled(BASE, kind)

    costs = mixed([2.0, 1.0, 2.0, 4.0], price)
    assert asked == [2.0, 1.0, 4.0]
    assert costs.variants.of.tolist() == [0, 1, 0, 2]
    forward = costs.at(lambda each: each.times.forward, np.array([0, 1, 2, 2]), np.array([0, 1, 2, 3]))
    assert forward.tolist() == [2, 2, 6, 12]


def test_the_step_has_the_mean():
    """Of 2, 1, 2 and 4 times the work: 2.25 times; what belongs to weights stays."""
    costs = mixed([2.0, 1.0, 2.0, 4.0], lambda kind: scaled(BASE, kind))
    assert costs.times.forward.tolist() == [2.25, 4.5, 6.75]
    assert costs.sizes.activations.tolist() == [9, 11.25, 13.5]
    assert costs.host.offload_s.tolist() == [2.25] * 3
    assert costs.times.optimizer is BASE.times.optimizer


def test_scaled_costs_leave_latencies_and_weights():
    larger = scaled(BASE, 3.0)
    assert larger.times.input_grad.tolist() == [3, 3, 3]
    assert larger.sizes.weight_grad_activations.tolist() == [6, 7.5, 9]
    assert larger.hops is BASE.hops
    assert (larger.times.optimizer, larger.sizes.weights) == (
        pytest.approx(BASE.times.optimizer, abs=0), pytest.approx(BASE.sizes.weights, abs=0),
    )  # fmt: skip


def test_a_change_reaches_every_variant():
    costs = mixed([1.0, 2.0], lambda kind: scaled(BASE, kind)).changed(lambda each: replace(each, pair_factor=0.5))
    assert [each.pair_factor for each in (costs, *costs.variants.costs)] == [0.5] * 3
