"""Copies of PyTorch's fully sharded data parallelism and its optimizers: bytes per parameter, and what they take."""

from __future__ import annotations

import pytest

from pipesim.costs.collectives import CROWDING
from pipesim.costs.elementwise import elementwise_seconds, kernel
from pipesim.costs.fsdp import gather_bytes, reduce_bytes
from pipesim.costs.kernels import layer_kernels
from pipesim.costs.optimizer import update_bytes
from pipesim.costs.stages import build_stages
from pipesim.costs.state import StateCosts
from pipesim.hardware import Layout, build_cluster
from pipesim.workload.load import model_from_catalog
from pipesim.workload.parameters import layer_parameters
from pipesim.workload.shard import Shard
from pipesim.workload.training import Training

LLAMA = model_from_catalog("llama-3-8b")
STAGE = build_stages(LLAMA, [LLAMA.layers], [(0,)])[0]


def state(fsdp=0, layout=None, nodes=1, zero=3, microbatches=1):
    layout = layout or Layout(1, data=8)
    options = Training(zero=zero, global_batch=microbatches * layout.data, fsdp=fsdp, fused_gradients=False)
    return StateCosts(build_cluster("h100-sxm-80gb", nodes=nodes), layout, options)


def test_the_second_generation_copies_out_and_in():
    """A bf16 weight read and written; a bf16 gradient read and written as fp32."""
    assert (gather_bytes(Training(fsdp=2)), reduce_bytes(Training(fsdp=2))) == (4, 6)


def test_the_first_generation_computes_with_views_and_puts_their_gradients_together():
    """A bf16 gradient read and written; cast to fp32; that divided."""
    assert (gather_bytes(Training(fsdp=1)), reduce_bytes(Training(fsdp=1))) == (0, 4 + 6 + 8)


@pytest.mark.parametrize(("fsdp", "forward", "backward"), [(1, 0, 18), (2, 4, 4 + 6)])
def test_copies_slow_down_both_passes(fsdp, forward, backward):
    """By their bytes at the rate of memory-bound kernels."""
    plain, copying = state().sharding_seconds(STAGE), state(fsdp).sharding_seconds(STAGE)
    gpu = build_cluster("h100-sxm-80gb", nodes=1).gpu
    each_s = STAGE.parameters.total / (gpu.elementwise_efficiency * gpu.memory_bandwidth)
    for before, after, moved in zip(plain, copying, (forward, backward), strict=True):
        assert after - before == pytest.approx(moved * each_s, rel=0.001)  # launches


def test_gradients_that_are_reduced_each_time_are_not_added_up_before():
    """10 bytes per parameter of a layer: the product's bf16 and the accumulated fp32, read and written."""
    parameters = layer_parameters(LLAMA, False).total
    for zero, added in ((2, 10), (3, 0)):
        options = Training(zero=zero, fsdp=2, fused_gradients=False)
        assert layer_kernels(LLAMA, options, Shard(), False).weight_grad().moved_bytes == added * parameters


@pytest.mark.parametrize("fsdp", [1, 2])
def test_what_shards_nothing_is_not_fsdp(fsdp):
    """Gradients are cleared and scaled, and weights written, as without it."""
    found = []
    for generation in (0, fsdp):
        options = Training(zero=0, fsdp=generation, global_batch=8, fused_optimizer=False)
        found.append(StateCosts(build_cluster("h100-sxm-80gb"), Layout(1, data=8), options).optimizer_seconds(STAGE))
    assert found[0] == found[1]


def test_one_gpu_on_each_node_takes_part_with_fewer_rings():
    """Tensor parallelism over a node leaves the sharding group one GPU of each."""
    wide, narrow = Layout(1, data=16), Layout(1, tensor=8, data=16)
    for layout, nodes, crowding in ((wide, 2, "several on a node"), (narrow, 16, "one on a node")):
        costs = state(layout=layout, nodes=nodes)
        forward_s = costs.sharding_seconds(STAGE)[0]
        assert forward_s == pytest.approx(CROWDING[crowding] * costs.unshard_seconds(STAGE), rel=1e-12)


@pytest.mark.parametrize(
    ("optimizer", "fused", "apart"), [("adam", 38, 80), ("adam-bf16", 30, 52), ("momentum", 30, 44), ("sgd", 22, 24)]
)
def test_updates_kernel_by_kernel_move_more(optimizer, fused, apart):
    """PyTorch's lists of kernels, and 12 bytes to clip gradients; fp32 pieces need no copy in bf16."""
    assert update_bytes(Training(optimizer=optimizer)) == fused
    assert update_bytes(Training(optimizer=optimizer, fused_optimizer=False, fsdp=2, zero=3)) == apart + 12
    assert update_bytes(Training(optimizer=optimizer, fused_optimizer=False)) == apart + 12 + 6


def test_fp16_reads_gradients_twice_more_and_remainders_need_no_copy():
    """Loss unscaling; the weight is a part of the parameter."""
    assert update_bytes(Training(precision="fp16")) == 46
    assert update_bytes(Training(optimizer="adam-remainders")) == 32


def test_gradients_are_reduced_once_for_all_microbatches():
    """So each of four slows its backward by a quarter of it."""
    costs = state(microbatches=4)
    forward_s, backward_s = costs.sharding_seconds(STAGE)
    reducing = CROWDING["several on a node"] * costs.reduce_seconds(STAGE) / 4
    assert backward_s - forward_s == pytest.approx(reducing, rel=1e-12)


def test_with_pipeline_stages_nothing_is_sharded_all_the_time():
    assert state(2, Layout(2, data=4)).sharding_seconds(STAGE) == (0.0, 0.0)


def test_one_group_of_several_on_a_node_is_enough_for_many_rings():
    """Experts have one replica on each of two nodes, dense weights eight."""
    mixtral = model_from_catalog("mixtral-8x7b")
    stage = build_stages(mixtral, [mixtral.layers], [(0,)])[0]
    costs = state(layout=Layout(1, data=16, expert=8), nodes=2)
    expected = CROWDING["several on a node"] * costs.unshard_seconds(stage)
    assert costs.sharding_seconds(stage)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("zero", "fsdp", "ways"), [(1, 0, 1), (2, 0, 8), (2, 2, None)])
def test_gradients_are_cleared_and_scaled_before_they_are_divided(zero, fsdp, ways):
    """Three fp32 passes over the whole of them, from ZeRO 2 on over an eighth; PyTorch has none."""
    costs = state(fsdp, zero=zero)
    gpu = costs.gpu
    parameters = STAGE.parameters.total
    update = elementwise_seconds(kernel(update_bytes(costs.training) * parameters / 8), gpu)
    passes = elementwise_seconds(kernel(3 * 4 * parameters / ways), gpu) if ways else 0.0
    assert costs.optimizer_seconds(STAGE) == pytest.approx(update + passes, rel=1e-12)
