"""Forward, input gradient and weight gradient cost what their own products, attention and kernels cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipesim.costs.kernels import layer_kernels
from pipesim.costs.layer import LayerCosts
from pipesim.costs.products import Product
from pipesim.hardware import Layout, build_cluster
from pipesim.workload.load import model_from_catalog
from pipesim.workload.matrices import layer_matrices
from pipesim.workload.training import Training

MODELS = ("gpt3-175b", "llama-3-70b", "mixtral-8x7b", "deepseek-v3")
CLUSTERS = {name: build_cluster(name) for name in ("a100-sxm-80gb", "h100-sxm-80gb", "b200-sxm-180gb")}

models, gpus = st.sampled_from(MODELS), st.sampled_from(sorted(CLUSTERS))
tensors, batches = st.sampled_from([1, 2, 4, 8]), st.integers(1, 4)


def layer(name, gpu, tensor=1, batch=1, sequence=None, **training):
    """A layer of the model's own kind, without a launch floor and with bf16 unless said otherwise."""
    model = model_from_catalog(name)
    model = replace(model, sequence=sequence or model.sequence)
    options = {"launch_floor": False, "micro_batch": batch, "sequence_parallel": tensor > 1, **training}
    prices = LayerCosts(model, CLUSTERS[gpu], Layout(1, tensor=tensor), Training(**options))
    return prices.layer(model.moe is not None)


def core_seconds(name, gpu, sequence, half, **training):
    """What a sequence twice as long adds beyond twice the time: the attention core alone is not linear in it."""
    lengths = (2 * sequence, sequence)
    double, once = (getattr(layer(name, gpu, sequence=length, **training), half).seconds for length in lengths)
    return double - 2 * once


@settings(max_examples=40)
@given(models, gpus, tensors, batches)
def test_the_weight_gradient_neither_communicates_nor_attends(name, gpu, tensor, batch):
    """With any attention, its time is the same."""
    times = [layer(name, gpu, tensor, batch, flash_attention=flash).weight_grad for flash in (True, False)]
    assert times[0] == times[1]
    assert times[0].collective_s == 0


@pytest.mark.parametrize("tensor", [1, 8])
def test_gradients_of_biases_come_with_the_inputs(tensor):
    """What is put off to the weight gradient is products alone; each bias sums what its matrix put out."""
    model, training = model_from_catalog("gpt3-175b"), Training(sequence_parallel=tensor > 1, launch_floor=False)
    plain = replace(model, biases=False, qkv_bias=False)
    with_biases, without = (
        LayerCosts(each, CLUSTERS["a100-sxm-80gb"], Layout(1, tensor=tensor), training) for each in (model, plain)
    )
    products = with_biases._matrices(layer_matrices(model, False), "weight_grad")
    assert with_biases.layer().weight_grad == without.layer().weight_grad == products
    summed = layer_kernels(model, training, with_biases.shard, False).bias_grad()
    per_token = (3 * model.hidden + model.ffn + 2 * model.hidden) / tensor
    assert summed.moved_bytes == pytest.approx(2 * model.sequence * per_token, rel=1e-12)


def test_a_weight_gradient_is_added_to_in_its_own_precision():
    """Few tokens, so that memory decides: 8 bytes of fp32 per weight, 4 of fp16, 2 where another kernel adds."""
    seconds = []
    for options in ({}, {"gradients": "half"}, {"fused_gradients": False}):
        prices = LayerCosts(
            model_from_catalog("gpt3-175b"), CLUSTERS["a100-sxm-80gb"], Layout(1), Training(precision="fp16", **options)
        )
        seconds.append(prices.product_seconds(Product(4096, 4096, 16), "weight_grad"))
    fit = CLUSTERS["a100-sxm-80gb"].gpu.gemm["fp16"]
    rate = fit.memory_efficiency * CLUSTERS["a100-sxm-80gb"].gpu.memory_bandwidth
    operands = 2 * 2 * 4096 * 16
    expected = [fit.overhead_s + (operands + each * 4096**2) / rate for each in (8, 4, 2)]
    assert seconds == pytest.approx(expected, rel=1e-12)


@settings(max_examples=40)
@given(models, gpus, tensors, batches)
def test_products_of_the_weight_gradient_take_some_five_percent_longer(name, gpu, tensor, batch):
    """4 to 5 % by their rate; with experts, whose gradients add to fp32 results of few rows each, up to 3.3 times."""
    model, cluster = model_from_catalog(name), CLUSTERS[gpu]
    prices = LayerCosts(model, cluster, Layout(1, tensor=tensor), Training(micro_batch=batch))
    matrices = layer_matrices(model, model.moe is not None)
    forward, weight_grad = (prices._matrices(matrices, role).seconds for role in ("forward", "weight_grad"))
    assert 1.035 < weight_grad / forward < (1.06 if model.moe is None else 3.3)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("gpu", sorted(CLUSTERS))
def test_attention_adds_two_to_three_times_its_forward_to_the_input_gradient(name, gpu):
    """2.5 times the operations, at a lower rate (2.65 to 3 times the time) or, latent on B200, a higher one (2.4)."""
    forward, input_grad = (core_seconds(name, gpu, 65536, half) for half in ("forward", "input_grad"))
    assert 2.3 < input_grad / forward < 3.1


@pytest.mark.parametrize("name", ["gpt3-175b", "llama-3-70b", "mixtral-8x7b"])
def test_without_flash_attention_the_core_takes_up_to_twice_its_forward_backwards(name):
    """Products twice; softmax and dropout move 11 bytes per score for 9 of the forward (1.2 times)."""
    forward, input_grad = (
        core_seconds(name, "a100-sxm-80gb", 8192, half, flash_attention=False) for half in ("forward", "input_grad")
    )
    assert 1.2 < input_grad / forward < 2.0
