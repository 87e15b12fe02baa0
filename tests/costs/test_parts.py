"""Parts of layers: they add up to the layer, and they send and keep what the released HelixPipe code does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipesim.costs.analytic import analytic_costs, step_work
from pipesim.costs.layer import LayerCosts
from pipesim.costs.part_stages import PartActivations, build_part_stages, message_bytes
from pipesim.costs.parts import PartCosts
from pipesim.hardware import Layout, build_cluster
from pipesim.ir.cut import LAYER, Part, Piece
from pipesim.schedules import create
from pipesim.workload.load import model_from_catalog, model_from_mapping
from pipesim.workload.memory import attention_inputs, layer_working_set
from pipesim.workload.parameters import layer_parameters, post_attention_parameters, pre_attention_parameters
from pipesim.workload.shard import Shard
from pipesim.workload.training import Training

GPT = {"layers": 8, "hidden": 4096, "heads": 32, "vocab": 50304, "sequence": 16384, "positions": "rotary"}
CLUSTER = build_cluster("h20-sxm-96gb", gpus_per_node=8, nodes=8, inter_node="infiniband-ndr")
PHASES = ("forward", "input_grad", "weight_grad")
RUNS = [[s // 2 % 4] if s % 2 == 0 else [0, 1, 2, 3] for s in range(17)]
B, S, H, A = 1, GPT["sequence"], GPT["hidden"], GPT["heads"]


def gpt(**fields):
    """The GPT above without dropout masks, or with other fields."""
    return model_from_mapping({**GPT, "dropout": False, **fields})


def training(**fields):
    """Half precision, sequence parallel."""
    return Training(**{"precision": "fp16", "global_batch": 8, "sequence_parallel": True, **fields})


def layout(tensor=1, pipeline=4):
    """P pipeline ranks of ``tensor`` GPUs."""
    return Layout(pipeline=pipeline, tensor=tensor, data=1, context=1, expert=1, gpus_per_node=8)


def cut(layers=8, **options):
    """HelixPipe's cut on four ranks."""
    return create("helix", layers=layers, **options).placement(4).cut


def priced(model, how, tensor=1, **options):
    """Part prices of HelixPipe's cut."""
    return PartCosts(model, CLUSTER, layout(tensor), how, cut(**options))


def stages(model, **options):
    """HelixPipe's stages of a model; which ranks run them matters not here."""
    made = cut(model.layers, **options)
    return made, build_part_stages(model, made, [(0,)] * len(made.pieces))


@pytest.mark.parametrize("name", ["gpt3-175b", "llama-3-8b", "mixtral-8x7b", "deepseek-v3"])
@pytest.mark.parametrize("tensor", [1, 8])
@pytest.mark.parametrize("sequence_parallel", [True, False])
def test_parts_add_up_to_the_layer(name, tensor, sequence_parallel):
    """Norm, QKV, attention and the rest take exactly what the layer takes, launch floor included."""
    model, how = model_from_catalog(name), training(sequence_parallel=sequence_parallel)
    prices, whole = priced(model, how, tensor), LayerCosts(model, CLUSTER, layout(tensor), how)
    for layer in (0, model.layers - 1):
        expected = whole.layer(model.is_mixture(layer))
        for phase in PHASES:
            parts = [getattr(prices.part(Piece(part, layer)), phase) for part in LAYER]
            # Sums of floats in another order.
            assert sum(p.seconds for p in parts) == pytest.approx(getattr(expected, phase).seconds, rel=1e-12)
            collective_s = getattr(expected, phase).collective_s
            assert sum(p.collective_s for p in parts) == pytest.approx(collective_s, rel=1e-12, abs=1e-15)
            assert all(p.seconds >= 0 for p in parts)


@pytest.mark.parametrize("name", ["gpt3-175b", "mixtral-8x7b"])
@pytest.mark.parametrize("tensor_overlap", ["none", "gradients", "full"])
def test_no_part_communicates_less_than_nothing(name, tensor_overlap):
    """What products hide of a collective is taken off the part whose collective it is."""
    model = model_from_catalog(name)
    prices = priced(model, training(tensor_overlap=tensor_overlap), 8)
    for part in LAYER:
        times = prices.part(Piece(part, 0))
        for phase in (getattr(times, name) for name in PHASES):
            assert 0 <= phase.collective_s <= phase.seconds * (1 + 1e-9)  # differences of sums of floats


def test_long_sequences_make_attention_the_longest_part():
    """With weights shipped, what remains in front of attention is a norm: next to nothing."""
    prices = priced(gpt(sequence=131072), training(), tensor=8)
    norm, qkv, attention, post = (prices.part(Piece(part, 0)).forward.seconds for part in LAYER)
    assert attention > post > qkv > 10 * norm


@pytest.mark.parametrize("ship", [True, False])
def test_message_sizes(ship):
    """2bsh + 3h^2 (with the bias 3h) into attention when weights are shipped, 4bsh otherwise; 2bsh out of it."""
    model = gpt()
    prices = priced(model, training(), ship_weights=ship)
    _, built = stages(model, ship_weights=ship)
    elements = message_bytes(prices, built) / 2
    bsh = B * S * H
    into = 2 * bsh + 3 * H**2 + 3 * H if ship else 4 * bsh
    assert elements[:-1].tolist() == [into, 2 * bsh] * 8


def test_grouped_queries_send_fewer_keys_and_values():
    """Without shipping, keys and values travel for the groups there are."""
    model = gpt(kv_heads=8)
    _, built = stages(model, ship_weights=False)
    elements = message_bytes(priced(model, training(), ship_weights=False), built) / 2
    assert elements[0] == B * S * (H + H + 2 * H // 4)


@pytest.mark.parametrize("tensor", [1, 8])
def test_stash_without_attention_repeated(tensor):
    """2bsh/t at the weights; 2bsh/t, log-sum-exp and the shipped weights at the attention; embedding output and
    final hidden states at the ends.
    """
    model = gpt(qkv_bias=False)
    made, built = stages(model)
    activations = PartActivations(model, training(), Shard(tensor=tensor, sequence_parallel=tensor > 1), made)
    kept = [activations.kept(stage) for stage in built]
    bsh = B * S * H / tensor
    token_ids = 8 * B * S
    assert kept[0] == 2 * bsh + token_ids
    assert kept[1:-1:2] == [2 * 2 * bsh + 4 * B * S * A / tensor + 2 * 3 * H**2 / tensor] * 8
    assert kept[2:-1:2] == [2 * 2 * bsh] * 7
    assert kept[-1] == 2 * 3 * bsh


def test_shipped_qkv_needs_no_copy_of_what_it_can_repeat():
    """Without shipping the attention keeps queries, keys and values instead of the norm's output and weights."""
    model = gpt(qkv_bias=False)
    made, built = stages(model, ship_weights=False)
    activations = PartActivations(model, training(), Shard(), made)
    assert activations.kept(built[1]) == 2 * 4 * B * S * H + 4 * B * S * A


@pytest.mark.parametrize("recompute", ["none", "full", "selective"])
def test_following_training_keeps_a_layer(recompute):
    """As training says: nothing repeated keeps what a layer keeps, and the attention output on both its sides."""
    model, how = gpt(), training(recompute=recompute)
    made, built = stages(model, recompute="training", ship_weights=False)
    activations = PartActivations(model, how, Shard(), made)
    bsh = 2 * B * S * H
    layer = activations.kept(built[1]) + activations.kept(built[2])
    if recompute == "full":
        # Inputs of the two pieces: queries, keys, values; attention output and residual.
        assert layer == attention_inputs(model, how, Shard()) + 2 * bsh
    else:
        assert layer == layer_working_set(model, False, how, Shard()) + bsh


@pytest.mark.parametrize("ship", [True, False])
def test_repeating_brings_back_what_was_not_kept(ship):
    """Kept and brought back together are what a layer's backward reads, besides copies and the residual."""
    model, how = gpt(qkv_bias=False), training()
    made, built = stages(model, ship_weights=ship)
    activations = PartActivations(model, how, Shard(), made)
    together = sum(activations.kept(stage) + activations.recomputed(stage) for stage in built[1:3])
    bsh = 2 * B * S * H
    copies = 2 * bsh + (2 * 3 * H**2 if ship else 0)  # attention output twice, residual, shipped weights
    assert together == layer_working_set(model, False, how, Shard()) + copies


def test_weights_live_in_front_of_attention():
    """Attention stages hold no parameters; all others together hold the model's, the tied matrix once."""
    model = gpt()
    _, built = stages(model)
    assert {stage.parameters.total for stage in built[1::2]} == {0}
    between = {stage.parameters.total for stage in built[2:-1:2]}
    assert between == {layer_parameters(model).total}
    layer = pre_attention_parameters(model) + post_attention_parameters(model)
    assert layer == layer_parameters(model)
    ends = built[0].parameters.total + built[-1].parameters.total
    assert ends == layer_parameters(model).total + model.vocab * H + model.norm_parameters


def test_chunked_mlp_only_shrinks_what_is_worked_in():
    """Times, stash and messages are the same; the backward's working memory around the MLP is smaller."""
    model, how = gpt(), training()
    both = [
        analytic_costs(model, CLUSTER, layout(), how, 17, holders=RUNS, cut=cut(mlp_chunks=chunks)) for chunks in (1, 8)
    ]
    for name in ("activations", "recomputed", "message", "weights"):
        assert (getattr(both[0].sizes, name) == getattr(both[1].sizes, name)).all()
    assert (both[0].times.forward == both[1].times.forward).all()
    assert (both[1].buffers_bytes[1:] < both[0].buffers_bytes[1:]).all()


def test_head_runs_forward_in_its_backward():
    """The last stage's forward has no head in it; its backward has all of it."""
    prices = priced(gpt(), training())
    head, post = prices.part(Piece(Part.HEAD)), prices.part(Piece(Part.POST, 7))
    last = prices.stage((Piece(Part.POST, 7), Piece(Part.HEAD)))
    assert last.forward == post.forward
    # Sums of floats in another order.
    expected = head.forward.seconds + head.input_grad.seconds + post.input_grad.seconds
    assert last.input_grad.seconds == pytest.approx(expected, rel=1e-12)
    assert last.recompute == post.forward


@pytest.mark.parametrize("sequence", [4096, 131072])
def test_hardware_flops_count_all_but_attention_twice(sequence):
    """96 L s h^2 (1 + s/(8h) + V/(16hL)) per sequence; the model's own are 72 L s h^2 (1 + s/(6h) + V/(12hL))."""
    model = gpt(sequence=sequence)
    L, s, h, V = model.layers, sequence, H, model.vocab
    work = step_work(model, training(), cut())
    # Integers as floats, well within 53 bits of each other.
    assert work.model_flops == pytest.approx(8 * 72 * L * s * h**2 * (1 + s / (6 * h) + V / (12 * h * L)), rel=1e-12)
    assert work.hardware_flops == pytest.approx(8 * 96 * L * s * h**2 * (1 + s / (8 * h) + V / (16 * h * L)), rel=1e-12)


def test_shipped_gradients_are_added_by_their_owner():
    """The weights' owner spends time on each gradient that comes back; nobody does without shipping."""
    model, pieces = gpt(), (Piece(Part.POST, 0), Piece(Part.NORM, 1))
    shipped = priced(model, training()).stage(pieces)
    kept = priced(model, training(), ship_weights=False).stage(pieces)
    assert shipped.weight_grad.seconds > kept.weight_grad.seconds
    assert replace(shipped, weight_grad=kept.weight_grad) == kept


def test_costs_are_finite_and_complete():
    """Every array has one entry per stage, none negative."""
    made = analytic_costs(gpt(), CLUSTER, layout(), training(), 17, holders=RUNS, cut=cut())
    for array in (*vars(made.times).values(), *vars(made.sizes).values()):
        assert array.shape == (17,)
        assert (np.isfinite(array) & (array >= 0)).all()


@pytest.mark.parametrize("phase", PHASES)
def test_parts_of_layers_that_launching_bounds_take_as_long_as_the_layer(phase):
    """Launching stretches all of them."""
    short, how = gpt(sequence=64), training()
    parts = priced(short, how)
    whole = LayerCosts(short, CLUSTER, layout(), how).layer()
    assert whole.forward.seconds == CLUSTER.gpu.launch_floor_forward_s
    found = sum(getattr(parts.part(Piece(part, 0)), phase).seconds for part in LAYER)
    assert found == pytest.approx(getattr(whole, phase).seconds, rel=1e-12)
