"""Kernels that nobody fused move the bytes that their ops read and write."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipesim.costs.kernels import layer_kernels
from pipesim.workload.load import model_from_catalog
from pipesim.workload.shard import Shard
from pipesim.workload.training import Training

LLAMA = replace(model_from_catalog("llama-3-8b"), sequence=4096)
GPT = model_from_catalog("gpt-22b")
TOKENS = 4096
ROTATED = 4096 + 2 * 1024


def kernels(model, fused, fused_norms=False):
    return layer_kernels(model, Training(fused_kernels=fused, fused_norms=fused_norms), Shard(), False)


def test_a_forward_of_llama_op_by_op():
    """Per hidden unit two norms of 36 bytes and two sums of 6; 20 to rotate; 10 per unit of the gated block."""
    expected = TOKENS * (4096 * (2 * 36 + 2 * 6) + 20 * ROTATED + 10 * 14336)
    assert kernels(LLAMA, False).forward().moved_bytes == pytest.approx(expected, rel=1e-12)


def test_a_backward_of_llama_op_by_op():
    """Norms 92 and the sum of both branches 6; 20 to rotate back; 18 per unit of the gated block."""
    expected = TOKENS * (4096 * 2 * (92 + 6) + 20 * ROTATED + 18 * 14336)
    assert kernels(LLAMA, False).input_grad().moved_bytes == pytest.approx(expected, rel=1e-12)


def test_layer_norm_and_gelu_are_one_kernel_anyway():
    """Only dropout and the sum with the residual, fused 7 bytes per unit with its mask, are two kernels: 5 and 6."""
    apart, fused = kernels(GPT, False).forward(), kernels(GPT, True).forward()
    assert apart.kernels == fused.kernels + 2
    assert apart.moved_bytes - fused.moved_bytes == pytest.approx(2 * 4 * 2048 * GPT.hidden, rel=1e-12)


def test_gelu_as_a_formula_is_a_list_of_kernels():
    """18 elements moved forwards and 28 backwards, where one kernel moves 2 and 3."""
    formula = replace(GPT, gelu_formula=True)
    apart, fused = kernels(formula, False), kernels(GPT, False)
    elements = 2048 * GPT.ffn
    for name, many, one in (("forward", 18, 2), ("input_grad", 28, 3)):
        moved = getattr(apart, name)().moved_bytes - getattr(fused, name)().moved_bytes
        assert moved == pytest.approx(2 * (many - one) * elements, rel=1e-12)
    assert kernels(formula, True).forward() == kernels(GPT, True).forward()


def test_a_norm_with_a_kernel_of_its_own_is_as_fast_as_compiled():
    """Two bytes read and two written, three passes backwards; the rest stays op by op."""
    norms = kernels(LLAMA, False, True)
    assert norms.norm() == kernels(LLAMA, True).norm()
    assert norms.norm_backward() == kernels(LLAMA, True).norm_backward()
    assert norms.activation() == kernels(LLAMA, False).activation()
