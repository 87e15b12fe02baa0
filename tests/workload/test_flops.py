"""FLOPs follow the published formulas, to the unit."""

from __future__ import annotations

import pytest

from pipesim.workload.flops import attention_core_flops, forward_flops, layer_flops, step_flops
from pipesim.workload.load import model_from_catalog

GPTS = ("gpt-22b", "gpt3-175b", "mt-nlg-530b", "gpt-1t", "gpt-91b")


def _sizes(model):
    return model.layers, model.sequence, model.hidden, model.vocab


@pytest.mark.parametrize("name", GPTS)
def test_model_flops_are_those_of_korthikanti_appendix_a(name):
    """72 B L s h^2 (1 + s/(6h) + V/(12 h L)), cleared of fractions."""
    model = model_from_catalog(name)
    L, s, h, V = _sizes(model)
    expected = 12 * s * h * (6 * L * h + L * s) + 6 * s * h * V
    assert step_flops(model, 3).model == 3 * expected


@pytest.mark.parametrize("name", GPTS)
def test_full_recomputation_is_narayanan_equation_3(name):
    """96 B L s h^2 (1 + s/(6h) + V/(16 h L))."""
    model = model_from_catalog(name)
    L, s, h, V = _sizes(model)
    assert step_flops(model, 2, "full").hardware == 2 * (96 * L * s * h * h + 16 * L * s * s * h + 6 * s * h * V)


@pytest.mark.parametrize("name", GPTS)
def test_selective_recomputation_adds_the_attention_core(name):
    """arXiv 2205.05198, section 5: s/(6h) becomes s/(3h) in the forward's third."""
    model = model_from_catalog(name)
    steps = step_flops(model, 1, "selective", flash_attention=False)
    assert steps.hardware - steps.model == model.layers * 4 * model.sequence**2 * model.hidden


def test_recomputation_without_attention_is_what_helixpipes_code_counts():
    """96 L s h^2 (1 + s/(8h) + V/(16hL)), code-tunnel/Megatron-LM megatron/initialize.py, branch dev."""
    model = model_from_catalog("gpt3-175b")
    L, s, h, V = model.layers, model.sequence, model.hidden, model.vocab
    expected = 96 * L * s * h * h + 12 * L * s * s * h + 6 * s * h * V
    assert step_flops(model, 2, "without-attention").hardware == 2 * expected


def test_flash_attention_leaves_selective_recomputation_nothing_to_repeat():
    model = model_from_catalog("gpt-22b")
    steps = step_flops(model, 1, "selective", flash_attention=True)
    assert steps.hardware == steps.model


def test_a_gpt_layer_does_24_s_h_squared_plus_4_s_squared_h():
    model = model_from_catalog("gpt3-175b")
    assert layer_flops(model) == 24 * 2048 * 12288**2 + 4 * 2048**2 * 12288


def test_deepseek_v3_forward_is_the_sum_of_its_published_parts():
    """73.2 GFLOP per token in matrices; 10.2 in causal attention at s = 4096, hence twice that in full
    squares."""
    model = model_from_catalog("deepseek-v3")
    attention = model.layers * attention_core_flops(model) / model.sequence
    assert f"{attention / 2 / 1e9:.1f}" == "10.2"
    assert f"{(forward_flops(model) / model.sequence - attention) / 1e9:.1f}" == "73.2"


def test_grouped_queries_save_flops_in_the_projection_only():
    model = model_from_catalog("llama-3-8b")
    s, h, f, d = model.sequence, model.hidden, model.ffn, model.head_dim
    expected = 2 * s * h * (32 + 16) * d + 2 * s * h * h + 6 * s * h * f + 4 * s * s * h
    assert layer_flops(model) == expected
