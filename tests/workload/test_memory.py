"""Bytes follow Korthikanti et al. 2022 exactly, and its tables in MiB."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipesim.workload.load import model_from_catalog
from pipesim.workload.memory import (
    bytes_per_parameter,
    head_activations,
    head_transient,
    layer_activations,
    layer_working_set,
    state_bytes,
    weight_grad_activations,
)
from pipesim.workload.shard import Shard
from pipesim.workload.training import Training

EAGER = Training(precision="fp16", flash_attention=False)
MIB = 2**20

# MiB per layer at s = 2048, by model and micro-batch: no parallelism; TP 8; TP 8 with sequence parallelism;
# that with selective recomputation; full recomputation. Computed from the formulas of arXiv 2205.05198.
ANCHORS = {
    ("gpt-22b", 4): (6752, 1264, 844, 204, 96),
    ("gpt3-175b", 1): (2736, 552, 342, 102, 48),
    ("mt-nlg-530b", 1): (3920, 840, 490, 170, 80),
    ("gpt-1t", 1): (4900, 1050, 612.5, 212.5, 100),
}
CASES = (
    ("none", Shard()),
    ("none", Shard(tensor=8)),
    ("none", Shard(tensor=8, sequence_parallel=True)),
    ("selective", Shard(tensor=8, sequence_parallel=True)),
    ("full", Shard(tensor=8)),
)


@pytest.mark.parametrize(("name", "micro_batch"), sorted(ANCHORS))
def test_activation_bytes_per_layer_are_the_anchors(name, micro_batch):
    model = model_from_catalog(name)
    measured = tuple(
        layer_activations(model, False, replace(EAGER, recompute=how, micro_batch=micro_batch), shard) / MIB
        for how, shard in CASES
    )
    assert measured == ANCHORS[name, micro_batch]


@pytest.mark.parametrize("tensor", [1, 2, 8])
def test_tensor_parallel_bytes_equal_the_formula(tensor):
    """s b h (10 + 24/t + 5 a s / (h t)), arXiv 2205.05198 section 4.2.1."""
    model = model_from_catalog("gpt3-175b")
    s, h, a = model.sequence, model.hidden, model.heads
    expected = s * h * 10 + s * h * 24 // tensor + 5 * a * s * s // tensor
    assert layer_activations(model, False, EAGER, Shard(tensor=tensor)) == expected


def test_korthikanti_figure_1_activation_bars_for_the_22b_model():
    """48 layers on one pipeline stage: 59.25 GiB without recomputation, 9.56 GiB with."""
    model = model_from_catalog("gpt-22b")
    training = replace(EAGER, micro_batch=4)
    none = 48 * layer_activations(model, False, training, Shard(tensor=8))
    selective = replace(training, recompute="selective")
    present = 48 * layer_activations(model, False, selective, Shard(tensor=8, sequence_parallel=True))
    assert (round(none / 2**30, 2), round(present / 2**30, 2)) == (59.25, 9.56)


def test_flash_attention_keeps_one_fp32_statistic_per_query_and_head_instead_of_the_scores():
    model = model_from_catalog("gpt3-175b")
    s, h, a = model.sequence, model.hidden, model.heads
    flash = replace(EAGER, flash_attention=True)
    assert layer_activations(model, False, flash, Shard()) == 34 * s * h + 4 * a * s


def test_a_gated_grouped_layer_without_dropout_counts_each_stored_tensor():
    """Norm inputs and outputs 8 h, queries and output 4 a d, keys and values 4 g d, SwiGLU 6 f, statistics
    4 a."""
    model = model_from_catalog("llama-3-8b")
    per_token = 8 * 4096 + 4 * 32 * 128 + 4 * 8 * 128 + 6 * 14336 + 4 * 32
    assert layer_activations(model, False, Training(), Shard()) == per_token * 8192


def test_experts_keep_one_copy_of_each_token_per_visit():
    model = model_from_catalog("mixtral-8x7b")
    dense = replace(model, moe=None, ffn=0)
    extra = layer_working_set(model, True, Training(), Shard()) - layer_working_set(dense, False, Training(), Shard())
    assert extra == model.sequence * (2 * 2 * (4096 + 3 * 14336) + 4 * 8)


def test_expert_parallelism_with_tensor_parallelism_divides_tokens_and_not_experts():
    model = model_from_catalog("mixtral-8x7b")
    together = Shard(tensor=2, expert=1, sequence_parallel=True)
    apart = Shard(tensor=2, expert=8, sequence_parallel=True)
    saved = layer_working_set(model, True, Training(), together) - layer_working_set(model, True, Training(), apart)
    assert saved == model.sequence * 2 * 2 * model.hidden / 2


def test_w_needs_32_s_b_h_bytes_after_i():
    """Qi et al. 2024 (arXiv 2401.10241), section 3."""
    model = model_from_catalog("gpt3-175b")
    assert weight_grad_activations(model, False, EAGER, Shard()) == 32 * model.sequence * model.hidden


def test_the_head_keeps_its_inputs_and_fp32_logits():
    """4 s b h (1 + V/h) / t, arXiv 2205.05198 section 4.3."""
    model = model_from_catalog("gpt3-175b")
    shard = Shard(tensor=8, sequence_parallel=True)
    assert head_activations(model, EAGER, shard) == 4 * model.sequence * (model.hidden + model.vocab) / 8


@pytest.mark.parametrize(
    ("precision", "gradients", "total"), [("bf16", "fp32", 18), ("fp16", "half", 16), ("fp32", "fp32", 16)]
)
def test_bytes_per_parameter(precision, gradients, total):
    each = bytes_per_parameter(Training(precision=precision, gradients=gradients))
    assert each.weights + each.gradients + each.optimizer == total


@pytest.mark.parametrize(("zero", "expected"), [(0, 18.0), (1, 6 + 12 / 64), (2, 2 + 16 / 64), (3, 16 / 64)])
def test_zero_stages_shard_optimizer_then_gradients_then_weights(zero, expected):
    state = state_bytes(1.0, Training(zero=zero), 64)
    assert state.weights + state.gradients + state.optimizer == expected


def test_recomputation_without_attention_leaves_4_sbh_and_statistics():
    """The layer's input, the core's output and, in FlashAttention, an fp32 statistic per query and head."""
    model, training = (
        model_from_catalog("gpt3-175b"),
        replace(EAGER, recompute="without-attention", flash_attention=True),
    )
    shard = Shard(tensor=8, sequence_parallel=True)
    expected = (4 * model.sequence * model.hidden + 4 * model.sequence * model.heads) / 8
    assert layer_activations(model, False, training, shard) == expected


def test_recomputation_without_attention_keeps_scores_where_there_is_no_flash_attention():
    """5 a s^2 b: the core is not repeated, so softmax, mask and dropped scores stay."""
    model, training = model_from_catalog("gpt-22b"), replace(EAGER, recompute="without-attention")
    once, scores = model.sequence * model.hidden, model.heads * model.sequence**2
    assert layer_activations(model, False, training, Shard()) == 4 * once + 5 * scores


def test_pointwise_recomputation_leaves_20_sbh():
    """Norms, GeLU and dropout repeated: 34 s b h become 20, 14 of which come back (arXiv 2503.01328, section 5.4)."""
    model, training = model_from_catalog("gpt3-175b"), replace(EAGER, recompute="pointwise", flash_attention=True)
    shard, once = Shard(), model.sequence * model.hidden
    statistics = 4 * model.sequence * model.heads
    kept = layer_activations(model, False, training, shard)
    assert kept == 20 * once + statistics
    assert layer_working_set(model, False, training, shard) - kept == 14 * once


def test_pointwise_recomputation_keeps_the_scores_but_not_their_dropout():
    """Without FlashAttention: of 5 a s^2 b the softmax's 2 stay, and dropout's mask and output are repeated."""
    model, training = model_from_catalog("gpt-22b"), replace(EAGER, recompute="pointwise")
    once, scores = model.sequence * model.hidden, model.heads * model.sequence**2
    assert layer_activations(model, False, training, Shard()) == 20 * once + 2 * scores


def test_pointwise_recomputation_of_gated_layers_keeps_both_branches():
    """SwiGLU keeps two of its three widths, inputs of the product; no dropout, so no masks."""
    model = model_from_catalog("llama-3-70b")
    none, pointwise = (Training(recompute=how) for how in ("none", "pointwise"))
    saved = layer_activations(model, False, none, Shard()) - layer_activations(model, False, pointwise, Shard())
    assert saved == model.sequence * (2 * 2 * model.hidden + 2 * model.ffn)


def test_layers_op_by_op_keep_what_is_between_their_operations():
    """Both norms' inputs in fp32, and SiLU's result: 8 h + 2 f bytes per token more."""
    model = model_from_catalog("llama-3-70b")
    fused, apart = Training(), Training(fused_kernels=False, fused_norms=False)
    more = layer_activations(model, False, apart, Shard()) - layer_activations(model, False, fused, Shard())
    assert more == model.sequence * (8 * model.hidden + 2 * model.ffn)


def test_norms_of_latents_and_of_the_head_op_by_op_keep_their_inputs_in_fp32_too():
    """4 bytes for every element that a norm reads: 2 h and both latents in a layer, h in the head."""
    model = model_from_catalog("deepseek-v3")
    fused, apart = Training(fused_kernels=False), Training(fused_kernels=False, fused_norms=False)
    more = layer_activations(model, False, apart, Shard()) - layer_activations(model, False, fused, Shard())
    assert more == 4 * model.sequence * (2 * model.hidden + model.mla.query_rank + model.mla.kv_rank)
    ways = Shard(8, sequence_parallel=True)
    head = head_activations(model, apart, ways) - head_activations(model, fused, ways)
    assert head == 4 * model.sequence * model.hidden / 8


@pytest.mark.parametrize("recompute", ["pointwise", "full", "full-early-stop", "per-op", "without-attention"])
def test_recomputation_repeats_what_is_between_operations(recompute):
    """What stays does not depend on whether kernels are fused; what comes back does."""
    model = replace(model_from_catalog("gpt2-64"), dropout=False)
    fused = Training(recompute=recompute)
    apart = replace(fused, fused_kernels=False)
    last = 2 * model.hidden if recompute == "per-op" else 0  # whose output is kept and read by nobody
    kept = [layer_activations(model, False, each, Shard()) for each in (fused, apart)]
    assert kept[1] - kept[0] == model.sequence * last
    whole = [layer_working_set(model, False, each, Shard()) for each in (fused, apart)]
    assert whole[1] - whole[0] == model.sequence * 3 * 2 * model.ffn


def test_pointwise_recomputation_repeats_norms_op_by_op_with_all_that_is_between():
    """What stays is what stays of fused layers."""
    model = model_from_catalog("llama-3-70b")
    fused = Training(recompute="pointwise")
    apart = replace(fused, fused_kernels=False, fused_norms=False)
    kept = [layer_activations(model, False, each, Shard()) for each in (fused, apart)]
    assert kept[0] == kept[1]


def test_a_loss_op_by_op_works_in_fp32_arrays_of_the_logits():
    """Two beside the log-softmax, three where the vocabulary is split; fused: gradients of logits and projection."""
    model = model_from_catalog("llama-3-8b")
    logits, projection = model.sequence * model.vocab, model.hidden * model.vocab
    fused, separate = Training(), Training(fused_loss=False)
    assert head_transient(model, fused, Shard()) == 2 * logits + 2 * projection
    assert head_transient(model, separate, Shard()) == 8 * logits
    assert head_transient(model, separate, Shard(tensor=8)) == 12 * logits / 8


def test_fp8_keeps_what_only_products_read_in_one_byte():
    """Of GPT's 32 s b h without dropout: norm outputs 4 to 2, activation output 8 to 4, attention's copy 1 more."""
    model = replace(model_from_catalog("gpt3-175b"), dropout=False)
    statistics = 4 * model.sequence * model.heads
    bf16, fp8 = (layer_working_set(model, False, Training(precision=each), Shard()) for each in ("bf16", "fp8"))
    assert (bf16 - statistics, fp8 - statistics) == tuple(n * model.sequence * model.hidden for n in (32, 27))


def test_gathered_inputs_that_are_kept_are_not_divided():
    """The outputs of both norms, 2 s b h each, until the weight gradient has read them."""
    model, shard = model_from_catalog("gpt-22b"), Shard(4, sequence_parallel=True)
    for keeps in (layer_working_set, weight_grad_activations):
        again, kept = (keeps(model, False, Training(gathered_inputs=how), shard) for how in ("again", "kept"))
        assert kept - again == pytest.approx(2 * 2 * model.sequence * model.hidden * (1 - 1 / 4), rel=1e-12)
