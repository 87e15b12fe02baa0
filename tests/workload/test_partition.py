"""Layers are cut into stages without losing any, or the error says what would do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesim.errors import ConfigError
from pipesim.workload.partition import layer_ranges, partition


def test_layers_that_divide_are_spread_evenly():
    assert partition(96, 8) == (12,) * 8


def test_llama_405b_is_one_layer_short_at_both_ends():
    assert partition(126, 16) == (7, *(8,) * 14, 7)


@pytest.mark.parametrize(
    ("layers", "expected"), [(7, (2, 2, 2, 1)), (6, (1, 2, 2, 1)), (5, (1, 2, 1, 1)), (4, (1, 1, 1, 1))]
)
def test_the_last_stage_is_short_first_then_the_first(layers, expected):
    assert partition(layers, 4) == expected


@given(st.integers(1, 200), st.data())
def test_no_layer_is_lost_and_stages_differ_by_at_most_one(layers, data):
    stages = data.draw(st.integers(1, layers))
    counts = partition(layers, stages)
    assert sum(counts) == layers
    assert len(counts) == stages
    assert max(counts) - min(counts) <= 1


def test_ranges_are_consecutive():
    assert layer_ranges((2, 0, 3)) == (range(0, 2), range(2, 2), range(2, 5))


def test_an_explicit_partition_is_kept():
    assert partition(10, 4, [1, 4, 4, 1]) == (1, 4, 4, 1)


def test_ends_short_is_one_layer_less_at_both_ends():
    """126 layers on 16 stages (Llama 3), and the smallest there are."""
    assert partition(126, 16, "ends-short") == (7, *(8,) * 14, 7)
    assert partition(10, 4, "ends-short") == (2, 3, 3, 2)
    assert partition(2, 2, "ends-short") == (1, 1)
    assert partition(2, 4, "ends-short") == (0, 1, 1, 0)


@pytest.mark.parametrize(
    ("layers", "stages", "allowed"),
    [
        (96, 12, "stages that divide 98, layers plus two: 2, 7, 14, 49, 98; 94 or 106 layers on 12 stages"),
        (3, 4, "stages that divide 5, layers plus two: 5; 2 or 6 layers on 4 stages"),
        (1, 4, "stages that divide 3, layers plus two: 3; 2 layers on 4 stages"),
        (6, 1, "stages that divide 8, layers plus two: 2, 4, 8"),
    ],
)
def test_ends_short_needs_stages_that_divide_two_more_layers(layers, stages, allowed):
    """The error has the numbers of stages and of layers that would do."""
    with pytest.raises(ConfigError) as error:
        partition(layers, stages, "ends-short")
    assert [problem.allowed for problem in error.value.problems] == [allowed]


def test_even_is_the_default():
    assert partition(126, 16, "even") == partition(126, 16)


def test_more_stages_than_layers_are_refused_with_the_largest_number_that_would_do():
    with pytest.raises(ConfigError, match="at most 4 stages"):
        partition(4, 5)


def test_an_explicit_partition_that_does_not_fit_is_refused_with_every_reason():
    with pytest.raises(ConfigError) as error:
        partition(10, 3, [4, -1])
    assert [problem.allowed for problem in error.value.problems] == ["3", "layers per stage, 0 or more", "10"]
