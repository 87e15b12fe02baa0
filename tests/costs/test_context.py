"""Context parallelism: the same attention work in blocks, and what each way of exchanging adds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipesim.costs.attention import Core, flash_seconds
from pipesim.costs.context import OVERLAP_PRICE, ContextAttention
from pipesim.costs.elementwise import Traffic, elementwise_seconds, kernel
from pipesim.hardware import build_cluster
from pipesim.workload.training import Training

GPU = build_cluster("h100-sxm-80gb", nodes=1).gpu
CORE = Core(batch=1, sequence=65536, heads=32, query_key=128, value=128, causal=True)
LOCAL = CORE.sequence / 4 * 128
"""Elements of one head on one of four GPUs."""


def attention(method="ring", ways=4, core=CORE, groups=8, gather_s=0.0, hop_s=0.0, compiled=True):
    training = Training(context_method=method, fused_kernels=compiled)
    return ContextAttention(core, groups, ways, training, GPU, lambda _, size: gather_s, lambda size: hop_s)


def test_one_gpu_attends_to_its_sequence():
    phase = attention(ways=1).phase(False)
    assert phase.seconds == flash_seconds(CORE, GPU)
    assert phase.collective_s == 0


@pytest.mark.parametrize("causal", [True, False])
def test_blocks_have_the_operations_of_the_whole(causal):
    split = attention(core=replace(CORE, causal=causal))
    first, later = split.blocks
    assert first.flops + 3 * later.flops == pytest.approx(replace(CORE, causal=causal).flops / 4, rel=1e-12)


def test_a_ring_adds_up_its_blocks_with_one_kernel_each():
    """Two reads and a write per element of the output; in the backward of queries, keys and values."""
    split = attention()
    first, later = split.blocks
    for backward, heads in ((False, 32), (True, 32 + 2 * 8)):
        blocks = flash_seconds(first, GPU, backward) + 3 * flash_seconds(later, GPU, backward)
        launches = 4 if not backward else 8
        merging = 4 * 6 * LOCAL * heads / (GPU.elementwise_efficiency * GPU.memory_bandwidth)
        expected = blocks + merging + launches * GPU.elementwise_overhead_s
        assert split.phase(backward).seconds == pytest.approx(expected, rel=1e-12)


def test_a_hop_hides_behind_a_block_but_for_its_price():
    quiet, hopping = attention().phase(False), attention(hop_s=1e-4).phase(False)
    assert hopping.collective_s == 0
    assert hopping.seconds - quiet.seconds == pytest.approx(OVERLAP_PRICE * 3e-4, rel=1e-9)


def test_a_slow_hop_sticks_out():
    first, later = attention().blocks
    slow = 1.0
    hidden = flash_seconds(first, GPU) + 2 * flash_seconds(later, GPU)
    assert attention(hop_s=slow).phase(False).collective_s == pytest.approx(3 * slow - hidden, rel=1e-12)


def of_pytorch(**options):
    return attention("torch-ring", **options)


def blocks_s(backward=False):
    first, later = attention().blocks
    return flash_seconds(first, GPU, backward) + 3 * flash_seconds(later, GPU, backward)


def test_op_by_op_only_pytorchs_last_hop_of_gradients_hides_behind_nothing():
    assert of_pytorch(hop_s=1e-4, compiled=False).phase(False).collective_s == 0
    assert of_pytorch(hop_s=1e-4, compiled=False).phase(True).collective_s == pytest.approx(1e-4, rel=1e-12)


def test_compiled_pytorch_waits_for_the_gathering_and_for_every_hop():
    """In the forward for one collective; in the backward for it and four hops."""
    quiet, sending = (of_pytorch(gather_s=gather_s, hop_s=hop_s) for gather_s, hop_s in ((0, 0), (1e-3, 1e-4)))
    for backward, sent in ((False, 1e-3), (True, 1.4e-3)):
        assert sending.phase(backward).collective_s == pytest.approx(sent, rel=1e-12)
        assert sending.phase(backward).seconds - quiet.phase(backward).seconds == pytest.approx(sent, rel=1e-9)


def test_op_by_op_pytorch_merges_in_fp32_with_five_kernels_a_step():
    """Bytes per element and step: 6 to fp32, 12, 8 and 12 to weight and subtract; 4 to copy keys and values."""
    merging = of_pytorch(compiled=False).phase(False).seconds - blocks_s()
    per_step = [6 * 32, 12 * 32, 8 * 32, 12 * 32, 4 * 2 * 32]
    expected = 4 * sum(elementwise_seconds(kernel(each * LOCAL), GPU) for each in per_step)
    assert merging == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("backward", "times"), [(False, [3 * 32]), (True, [4 * 32, 4 * 2 * 32])])
def test_compiled_pytorch_merges_with_one_kernel_a_step(backward, times):
    """The sum in fp32, what is added in bf16 and the new sum: 10 bytes; keys and values copied once to be gathered.

    A forward has nothing to merge in its first step; a backward merges gradients of queries, and of keys and values.
    """
    merging = of_pytorch().phase(backward).seconds - blocks_s(backward)
    traffic = kernel(4 * 2 * 32 * LOCAL)
    for each in times:
        steps = 4 if backward else 3
        traffic += sum((kernel(10 * each / steps * LOCAL) for _ in range(steps)), Traffic())
    assert merging == pytest.approx(elementwise_seconds(traffic, GPU), rel=1e-6)


def test_an_all_to_all_runs_whole_sequences_of_some_heads():
    phase = attention("all-to-all", gather_s=0.01).phase(False)
    copies = 2 * elementwise_seconds(kernel(2 * 2 * LOCAL * (32 + 2 * 8 + 32)), GPU)
    assert phase.collective_s == pytest.approx(0.02, rel=1e-12)
    assert phase.seconds == pytest.approx(flash_seconds(replace(CORE, heads=8), GPU) + 0.02 + copies, rel=1e-12)


def test_a_hop_of_the_backward_carries_gradients_too():
    """Keys and values in bf16, and as much again."""
    sizes = []
    split = replace(attention(), hop=lambda size: sizes.append(size) or 0.0)
    split.phase(False), split.phase(True)
    assert sizes == [2 * 2 * 8 * LOCAL, 2 * 2 * 2 * 8 * LOCAL]


def test_pytorchs_slow_hops_stick_out_of_the_blocks_beside_them():
    """Three of them, and all of the last."""
    slow, later = 1.0, flash_seconds(attention().blocks[1], GPU, True)
    phase = of_pytorch(hop_s=slow, compiled=False).phase(True)
    assert phase.collective_s == pytest.approx(3 * (slow - later) + slow, rel=1e-12)
