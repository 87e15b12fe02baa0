"""Per-op recomputation keeps what PyTorch's selective checkpointing keeps under torchtitan's policy."""

from __future__ import annotations

from dataclasses import replace

from pipesim.workload.flops import head_flops, recomputed_flops
from pipesim.workload.load import model_from_catalog
from pipesim.workload.memory import layer_activations, layer_input, tokens
from pipesim.workload.recompute import kept_matrices, repeated_matrices, separate_matrices
from pipesim.workload.shard import Shard
from pipesim.workload.training import Training

LLAMA = model_from_catalog("llama-3-8b")
SAC = Training(recompute="per-op", global_batch=1)


def names(matrices):
    return [matrix.name for matrix in matrices]


def test_every_second_product_is_repeated_and_the_last_one_by_nobody():
    """wq, wk, wv, wo, w1, w3, w2 in the order of Llama's code: the even ones."""
    order = ["query", "key", "value", "out", "mlp_gate", "mlp_up", "mlp_down"]
    assert names(separate_matrices(LLAMA, False)) == order
    assert names(repeated_matrices(LLAMA, False)) == ["key", "out", "mlp_up"]
    assert names(kept_matrices(LLAMA, False)) == ["query", "value", "mlp_gate"]


def test_separate_matrices_have_the_parameters_of_the_joint_ones():
    layer = separate_matrices(LLAMA, False)
    assert sum(matrix.parameters for matrix in layer) == 4096 * (2 * 4096 + 2 * 1024 + 3 * 14336)


def test_products_of_experts_are_not_kept():
    model = model_from_catalog("mixtral-8x7b")
    assert {"expert_gate", "expert_up"} <= set(names(repeated_matrices(model, True)))


def test_kept_bytes_are_those_of_input_products_attention_and_statistics():
    """Without compilation the output of the last product is kept too: 4096 more features."""
    count = tokens(LLAMA, SAC, Shard())
    features = 4096 + (4096 + 1024 + 14336) + 4096
    statistics = 4 * 32 * count
    assert layer_activations(LLAMA, False, SAC, Shard()) == 2 * count * features + statistics
    eager = replace(SAC, fused_kernels=False)
    assert layer_activations(LLAMA, False, eager, Shard()) == 2 * count * (features + 4096) + statistics


def test_with_early_stop_the_input_is_kept_and_the_last_product_not_repeated():
    stopped = replace(SAC, recompute="full-early-stop")
    assert layer_activations(LLAMA, False, stopped, Shard()) == layer_input(LLAMA, stopped, Shard())
    whole, early = (recomputed_flops(LLAMA, how, True) for how in ("full", "full-early-stop"))
    assert whole - early == 32 * 8192 * 2 * 4096 * 14336


def test_repeated_operations_are_those_of_the_repeated_products():
    repeated = recomputed_flops(LLAMA, "per-op", True)
    assert repeated == 32 * 8192 * 2 * 4096 * (1024 + 4096 + 14336)
    assert repeated < recomputed_flops(LLAMA, "full", True)
    assert head_flops(LLAMA) > 0
