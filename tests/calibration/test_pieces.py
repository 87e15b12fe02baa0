"""What one GPU runs of a model is what autograd differentiates, in the shapes that the cost model prices."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")

import torch
from torch.autograd.graph import saved_tensors_hooks

from pipesim.calibration import kernels
from pipesim.calibration.attention import Core
from pipesim.calibration.device import Cpu
from pipesim.calibration.feed_forward import Activation
from pipesim.calibration.layer import Head, Layer
from pipesim.calibration.linear import Linear
from pipesim.calibration.local import Local
from pipesim.calibration.pieces import Block, Entry
from pipesim.workload import eager, memory
from pipesim.workload.model import Experts, Latent, Model
from pipesim.workload.parameters import embedding_parameters, layer_parameters
from pipesim.workload.shard import Shard
from pipesim.workload.training import Training

GPT = Model("gpt", 2, 64, 8, 8, 8, 256, 512, 64, positions=64, dropout=False)
LLAMA = replace(GPT, kv_heads=2, gated_mlp=True, positions=0, norm="rms", biases=False, qkv_bias=False)
MIXTRAL = replace(LLAMA, moe=Experts(8, 2, 128, shared_ffn=64))
LATENT = replace(LLAMA, kv_heads=8, mla=Latent(query_rank=32, kv_rank=16, nope=8, rope=4, value=8))
UNCOMPRESSED = replace(LATENT, mla=Latent(query_rank=0, kv_rank=16, nope=8, rope=4, value=8))
BERT = replace(GPT, causal=False, head="bert", token_types=2, dropout=True)
MODELS = {
    "gpt": GPT,
    "llama": LLAMA,
    "mixtral": MIXTRAL,
    "latent": LATENT,
    "uncompressed": UNCOMPRESSED,
    "bert": BERT,
}
SHARDS = [Shard(), Shard(4), Shard(4, sequence_parallel=True), Shard(2, 4, 1, True)]


def local(model: Model, shard: Shard | None = None, **training: object) -> Local:
    return Local(model, Training(**{"precision": "fp32", **training}), shard or Shard(), torch.device("cpu"))


def linears(module: torch.nn.Module) -> list[Linear]:
    return [each for each in module.modules() if isinstance(each, Linear)]


@pytest.mark.parametrize("name", [name for name in MODELS if name != "bert"])  # which drops other values each time
@pytest.mark.parametrize("piece", ["layer", "head"])
def test_both_halves_of_a_backward_give_the_gradients_of_a_whole_one(name, piece):
    """Input gradients, then deferred weight gradients, against autograd's; 1e-4: other orders of sums in fp32."""
    here = local(MODELS[name])
    block = Block(here, Layer(here, MODELS[name].moe is not None) if piece == "layer" else Head(here))
    weights = [linear.weight.requires_grad_() for linear in linears(block.module)]
    result = block.forward()
    (from_halves,) = torch.autograd.grad(result, [block.input], block.gradient)
    block.weight_grad(result)
    for linear in linears(block.module):
        linear.forward = linear.product
    from_whole, *expected = torch.autograd.grad(block.module(block.input), [block.input, *weights], block.gradient)
    torch.testing.assert_close(from_halves, from_whole, rtol=1e-4, atol=1e-5)
    for linear, wanted in zip(linears(block.module), expected, strict=True):
        torch.testing.assert_close(linear.gradients[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_layer_has_the_parameters_that_are_counted(name):
    """Weights, biases and norms of all pieces."""
    model = MODELS[name]
    mixture = model.moe is not None
    layer, entry = Layer(local(model), mixture), Entry(local(model))
    held = sum(each.weight.numel() + (each.bias.numel() if each.bias is not None else 0) for each in linears(layer))
    held += sum(parameter.numel() for parameter in layer.parameters())
    assert held == layer_parameters(model, mixture).total
    assert sum(parameter.numel() for parameter in entry.module.parameters()) == embedding_parameters(model).total


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shard", SHARDS, ids=str)
def test_every_cut_of_every_model_runs(name, shard):
    """Forward and backward of a GPU's share keep the shape of its residual stream."""
    model = MODELS[name]
    here = local(model, shard)
    for piece in (Entry(here), Block(here, Layer(here, model.moe is not None))):
        result = piece.forward()
        piece.input_grad(result)
        piece.weight_grad(result)
        assert result.shape == (64 // shard.context // shard.sequence_ways, 64)
    head = Block(here, Head(here))
    result = head.forward()
    head.input_grad(result)
    head.weight_grad(result)
    assert result.shape == ()


@pytest.mark.parametrize("shard", [Shard(2, 1, 4, True), Shard(2, 1, 8), Shard(4, 1, 2)], ids=str)
def test_experts_on_other_gpus_run(shard):
    """With expert parallelism as many tokens arrive as leave."""
    here = local(MIXTRAL, shard)
    layer = Layer(here, True)
    block = Block(here, layer)
    result = block.forward()
    block.input_grad(result)
    block.weight_grad(result)
    experts = layer.feed_forward
    assert len(experts.sent) == 64 // shard.tensor * 2
    assert experts.up.weight.numel() == 8 // shard.expert * 256 * 64


@pytest.mark.parametrize("shard", SHARDS, ids=str)
@pytest.mark.parametrize("flash", [True, False], ids=["flash", "unfused"])
def test_a_gpt_layer_keeps_what_korthikanti_counts(shard, flash):
    """arXiv 2205.05198, section 4, without dropout. 2 %: statistics of the norms, which they leave out."""
    here = local(GPT, shard, flash_attention=flash)
    block = Block(here, Layer(here, False))
    block.forward()  # what stands for other GPUs is made once
    kept = Cpu().kept_bytes(block.leave)
    assert kept == pytest.approx(memory.layer_activations(GPT, False, here.training, shard), rel=0.02)


@pytest.mark.parametrize("shard", SHARDS, ids=str)
def test_a_gpt_layer_keeps_every_factor_of_a_formula_of_gelu(shard):
    """Beside what Korthikanti counts. 2 %: statistics of the norms."""
    model = replace(GPT, gelu_formula=True)
    here = local(model, shard, fused_kernels=False)
    block = Block(here, Layer(here, False))
    block.forward()
    expected = memory.layer_activations(model, False, here.training, shard)
    assert Cpu().kept_bytes(block.leave) == pytest.approx(expected, rel=0.02)
    fused = memory.layer_activations(model, False, replace(here.training, fused_kernels=True), shard)
    assert expected - fused == 3 * 4 * here.tokens * 256 / shard.tensor


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", [LLAMA, replace(GPT, gelu_formula=True)], ids=["gated", "formula"])
def test_an_activation_function_op_by_op_keeps_what_is_counted(model, precision):
    """Besides its input: its result, and what its operations multiply."""
    here = local(model, precision=precision, fused_kernels=False)
    x = here.random(64, 256 * (2 if model.gated_mlp else 1)).requires_grad_()
    widths = eager.activation_widths(model, here.training)
    assert widths == (1 if model.gated_mlp else 3)
    assert Cpu().kept_bytes(lambda: Activation(model)(x)) == (widths + 1) * here.training.element_bytes * 64 * 256


@pytest.mark.parametrize(("precision", "kept"), [("fp32", 4 + 4), ("bf16", 4 + 2 + 2)])
def test_a_norm_op_by_op_keeps_what_is_counted(precision, kept):
    """Normalised values and the result, before them the input as fp32, unless it is; one number per row."""
    here = local(LLAMA, precision=precision, fused_kernels=False, fused_norms=False)
    x, norm = here.random(64, 64).requires_grad_(), here.norm(64)
    assert Cpu().kept_bytes(lambda: norm(x)) == kept * 64 * 64 + 4 * 64
    extra = eager.norm_bytes(LLAMA, here.training)
    apart = kept if precision == "bf16" else kept + 4  # an fp32 input is what the norm before was given
    assert extra + 2 * here.training.element_bytes == apart


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shard", SHARDS, ids=str)
def test_a_head_op_by_op_keeps_what_is_counted(shard, precision):
    """1 %: statistics of the norm and of the loss."""
    here = local(LLAMA, shard, precision=precision, fused_kernels=False, fused_norms=False)
    head = Block(here, Head(here))
    head.forward()
    expected = memory.head_activations(LLAMA, here.training, shard)
    assert Cpu().kept_bytes(head.leave) == pytest.approx(expected, rel=0.01)


def test_a_norm_of_one_kernel_keeps_no_more():
    """Of Llama with a kernel of its own, of GPT, and of everything that is fused."""
    assert eager.norm_bytes(LLAMA, Training(fused_kernels=False)) == 0
    assert eager.norm_bytes(GPT, Training(fused_kernels=False, fused_norms=False)) == 0
    assert eager.norm_bytes(LLAMA, Training(fused_norms=False)) == 0
    assert eager.activation_widths(GPT, Training(fused_kernels=False)) == 0
    assert eager.activation_widths(LLAMA, Training()) == 0


def test_norms_op_by_op_are_those_of_pytorch():
    """1e-5: other orders of sums in fp32."""
    here, apart = (local(LLAMA, fused_kernels=False, fused_norms=fused) for fused in (True, False))
    one, many = here.norm(64), apart.norm(64)
    many.weight.data.fill_(1)
    x = torch.randn(8, 64)
    torch.testing.assert_close(one(x), many(x), rtol=1e-5, atol=1e-5)


def test_a_formula_of_gelu_is_gelu():
    """1e-5: rounding in fp32."""
    x = torch.linspace(-4, 4, 101)
    formula, kernel = (Activation(replace(GPT, gelu_formula=how))(x) for how in (True, False))
    torch.testing.assert_close(formula, kernel, rtol=1e-5, atol=1e-5)


def test_kept_bytes_are_those_of_saved_tensors():
    """Every saved tensor that is not a weight or made before, each storage once."""
    here = local(LLAMA)
    block = Block(here, Layer(here, False))
    foreign = {each.weight.untyped_storage()._cdata for each in linears(block.module)}
    foreign |= {each.untyped_storage()._cdata for each in block.module.parameters()}
    rotary = block.module.attention.rotary
    foreign |= {each.untyped_storage()._cdata for each in (rotary.cosine, rotary.sine)}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in foreign:
            saved[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = block.leave()
    assert Cpu().kept_bytes(block.leave) == sum(storage.nbytes() for storage in saved.values())
    del graph


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("groups", [8, 2])
def test_both_ways_to_attention_agree(causal, groups):
    """Fused and with the scores in memory; 1e-5: other orders of sums in fp32."""
    model = replace(GPT, causal=causal, kv_heads=groups)
    fused, unfused = (Core(local(model, flash_attention=flash)) for flash in (True, False))
    inputs = [torch.randn(2, heads, 64, 8) for heads in (8, groups, groups)]
    torch.testing.assert_close(fused(*inputs), unfused(*inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("ways", "keys"), [(1, 64), (2, 32), (4, 32)])
def test_context_parallelism_leaves_an_even_share_of_the_causal_square(ways, keys):
    """s / c queries meet s / 2 keys: 1 / c of half the square."""
    core = Core(local(GPT, Shard(context=ways)))
    assert (core.queries, core.keys, core.causal) == (64 // ways, keys, ways == 1)
    inputs = [torch.randn(1, 8, 64 // ways, 8) for _ in range(3)]
    assert core(*inputs).shape == (1, 8, 64 // ways, 8)


def test_scores_in_memory_are_all_there_under_context_parallelism():
    """s / c queries and s keys; what follows a query is masked."""
    core = Core(local(GPT, Shard(context=4), flash_attention=False))
    assert core.mask.shape == (16, 64)
    assert core.mask.sum(dim=1).tolist() == list(range(15, -1, -1))


def test_repeating_a_layer_keeps_its_input_alone():
    """Full recomputation; the attention core's outcome and inputs stay when only that is repeated."""
    here = local(GPT, flash_attention=False)
    layer = Layer(here, False)
    block = Block(here, layer)
    everything = Cpu().kept_bytes(block.leave)
    layer.attention.repeat = True
    without_core = Cpu().kept_bytes(block.leave)
    assert everything - without_core == memory.attention_core(GPT, here.training, here.shard)
    layer.repeat = True
    assert Cpu().kept_bytes(block.leave) == memory.layer_input(GPT, here.training, here.shard)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shard", [Shard(), Shard(2, 4, 1, True)], ids=str)
@pytest.mark.parametrize("flash", [True, False], ids=["flash", "unfused"])
def test_everything_is_on_the_device(monkeypatch, name, shard, flash):
    """On PyTorch's device of shapes without values, which mixes with no other: as a GPU would not."""
    monkeypatch.setattr("pipesim.calibration.local.seeded", lambda device: None)
    meta, how = torch.device("meta"), Training(precision="bf16", flash_attention=flash, fused_gradients=False)
    here = Local(MODELS[name], how, shard, meta)
    for piece in (Entry(here), Block(here, Layer(here, MODELS[name].moe is not None)), Block(here, Head(here))):
        result = piece.forward()
        piece.input_grad(result)
        piece.weight_grad(result)
        assert result.device == meta
    for works in (
        kernels.core_works(here, True, 1),
        kernels.norm_works(here, True, 1),
        kernels.residual_works(here, 1),
    ):
        works[0]()


def test_gradients_are_added_up_where_products_do_not_do_that():
    """Two backwards add two gradients to the accumulated one."""
    here = local(GPT, fused_gradients=False)
    block = Block(here, Layer(here, False))
    for _ in range(2):
        result = block.forward()
        block.input_grad(result)
        block.weight_grad(result)
    for linear in linears(block.module):
        torch.testing.assert_close(linear.accumulated, 2 * linear.gradients[0])
