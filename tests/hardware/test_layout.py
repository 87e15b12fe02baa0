"""Rank placement: Megatron's order, groups and the nodes they span."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesim.errors import ConfigError
from pipesim.hardware import Group, Layout

small = st.integers(1, 4)
orders = st.permutations(["tp", "cp", "dp", "pp"]).map("-".join)


def test_megatron_numbers_16_gpus_as_its_documentation_says():
    # megatron/core/parallel_state.py, initialize_model_parallel docstring: 16 GPUs, tensor 2, pipeline 4.
    layout = Layout(pipeline=4, tensor=2, data=2)
    assert layout.members("tensor").tolist() == [
        [0, 1],
        [2, 3],
        [4, 5],
        [6, 7],
        [8, 9],
        [10, 11],
        [12, 13],
        [14, 15],
    ]
    assert sorted(layout.members("data").tolist()) == [
        [0, 2],
        [1, 3],
        [4, 6],
        [5, 7],
        [8, 10],
        [9, 11],
        [12, 14],
        [13, 15],
    ]
    assert sorted(layout.members("pipeline").tolist()) == [
        [0, 4, 8, 12],
        [1, 5, 9, 13],
        [2, 6, 10, 14],
        [3, 7, 11, 15],
    ]


def test_expert_groups_take_neighbours_along_tensor_context_and_data():
    """As Megatron-LM's generator of expert ranks with an expert tensor-parallel size of 1."""
    layout = Layout(pipeline=1, tensor=2, data=2, context=2, expert=2)
    assert layout.members("expert").tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert layout.members("expert_data").tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert layout.members("data_context").tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_tensor_groups_stay_in_a_node_and_pipeline_groups_cross():
    layout = Layout(pipeline=12, tensor=8)
    assert layout.group("tensor") == Group(size=8, nodes=1, per_node=8)
    assert layout.group("pipeline") == Group(size=12, nodes=12, per_node=1)
    assert layout.group("data") == Group(size=1, nodes=1, per_node=1)
    assert (layout.world_size, layout.nodes) == (96, 12)


@pytest.mark.parametrize(
    ("tensor", "data", "expected"),
    [
        (8, 4, Group(4, 4, 1)),  # one GPU of each node
        (2, 8, Group(8, 2, 4)),  # four GPUs on each of two nodes
        (1, 8, Group(8, 1, 8)),
        (16, 2, Group(2, 2, 1)),
    ],
)
def test_data_groups_take_what_tensor_groups_leave(tensor, data, expected):
    assert Layout(pipeline=2, tensor=tensor, data=data).group("data") == expected


def test_the_worst_group_counts_when_groups_are_placed_unevenly():
    # Six replicas per stage, eight GPUs per node: the second stage has two GPUs on node 0, four on node 1.
    assert Layout(pipeline=4, data=6).group("data") == Group(size=6, nodes=2, per_node=2)


def test_replicas_of_a_bidirectional_stage_join_both_pipeline_ranks():
    layout = Layout(pipeline=4, tensor=8, data=2)
    assert layout.replica_group([0, 3]) == Group(size=4, nodes=4, per_node=1)
    assert layout.replica_group([1]) == layout.group("data")
    assert layout.replica_group([1, 1]) == layout.group("data")
    assert Layout(pipeline=4, context=2).replica_group([0, 3]) == Group(size=4, nodes=1, per_node=4)


def test_the_order_moves_pipeline_inside():
    layout = Layout(pipeline=8, data=4, order="pp-tp-cp-dp")
    assert layout.group("pipeline") == Group(8, 1, 8)
    assert layout.group("data") == Group(4, 4, 1)


def test_megatrons_expert_token_in_the_order_is_accepted():
    assert Layout(2, 2, 2, order="tp-cp-ep-dp-pp").members("data").tolist() == Layout(2, 2, 2).members("data").tolist()


@given(small, small, small, small, orders, st.integers(1, 8))
def test_every_gpu_is_in_exactly_one_group_of_each_kind(pipeline, tensor, data, context, order, per_node):
    layout = Layout(pipeline, tensor, data, context, data * context, per_node, order)
    for kind in ("tensor", "context", "data", "pipeline", "data_context", "expert", "expert_data"):
        members = layout.members(kind)
        assert sorted(members.ravel()) == list(range(layout.world_size))
        assert all(np.diff(row).min(initial=1) > 0 for row in members)


@given(small, small, small, small, orders, st.integers(1, 8))
def test_a_group_fits_on_the_nodes_it_names(pipeline, tensor, data, context, order, per_node):
    layout = Layout(pipeline, tensor, data, context, 1, per_node, order)
    for kind in ("tensor", "context", "data", "pipeline", "data_context"):
        group = layout.group(kind)
        assert math.ceil(group.size / per_node) <= group.nodes <= min(group.size, layout.nodes)
        assert 1 <= group.per_node <= group.size // group.nodes


@given(small, small, small, small, orders)
def test_coordinates_and_the_array_of_gpus_agree(pipeline, tensor, data, context, order):
    layout = Layout(pipeline, tensor, data, context, order=order)
    last = {"pipeline": pipeline - 1, "data": data - 1, "context": context - 1, "tensor": tensor - 1}
    assert layout.gpu(**last) == layout.gpus()[-1, -1, -1, -1] == layout.world_size - 1
    assert layout.node_of(layout.gpu(**last)) == layout.nodes - 1


def test_coordinates_outside_the_job_are_refused():
    with pytest.raises(ValueError, match=r"pipeline = 4 is outside 0\.\.3"):
        Layout(4).gpu(pipeline=4)


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"tensor": 0}, "parallelism.tensor"),
        ({"data": 2.0}, "parallelism.data"),
        ({"gpus_per_node": -8}, "cluster.gpus_per_node"),
        ({"data": 4, "expert": 3}, "parallelism.expert"),
        ({"order": "tp-dp-pp"}, "parallelism.order"),
        ({"order": 3}, "parallelism.order"),
    ],
)
def test_bad_sizes_and_orders_are_config_errors(arguments, path):
    with pytest.raises(ConfigError) as caught:
        Layout(4, **arguments)
    assert [problem.path for problem in caught.value.problems] == [path]
