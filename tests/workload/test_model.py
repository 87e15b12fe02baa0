"""Models say their shape right, wherever they come from."""

from __future__ import annotations

import pytest

from pipesim import catalog
from pipesim.errors import ConfigError
from pipesim.workload.huggingface import model_from_huggingface
from pipesim.workload.load import model_from_catalog, model_from_mapping
from pipesim.workload.parameters import parameters

GPT = {"layers": 2, "hidden": 64, "heads": 4, "vocab": 100, "sequence": 32}

# Published total parameter counts; the Hugging Face ones are the sizes of the released checkpoints.
HUGGINGFACE = {
    "llama-2-70b": {
        "model_type": "llama", "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
        "num_key_value_heads": 8, "intermediate_size": 28672, "vocab_size": 32000,
        "max_position_embeddings": 4096, "tie_word_embeddings": False,
    },
    "mixtral-8x7b": {
        "model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000,
        "max_position_embeddings": 32768, "num_local_experts": 8, "num_experts_per_tok": 2,
    },
    "deepseek-v3": {
        "model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128,
        "num_key_value_heads": 128, "intermediate_size": 18432, "vocab_size": 129280,
        "max_position_embeddings": 163840, "n_routed_experts": 256, "n_shared_experts": 1,
        "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "first_k_dense_replace": 3,
        "moe_layer_freq": 1,
        "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
        "v_head_dim": 128,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(HUGGINGFACE))
def test_a_hugging_face_config_gives_the_same_parameters_as_the_catalog(name):
    assert parameters(model_from_huggingface(HUGGINGFACE[name])) == parameters(model_from_catalog(name))


def test_gpt2_config_counts_the_124_million_parameters_of_the_released_checkpoint():
    config = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257}
    assert parameters(model_from_huggingface({**config, "n_positions": 1024})) == 124_439_808


@pytest.mark.parametrize(("named", "formula"), [({}, True), ({"activation_function": "gelu"}, False)], ids=str)
def test_gpt2_has_a_formula_of_gelu_unless_it_names_another(named, formula):
    """GPT2Config: activation_function="gelu_new"."""
    config = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257}
    assert model_from_huggingface({**config, "n_positions": 1024, **named}).gelu_formula is formula


@pytest.mark.parametrize("family", ["bert", "gpt_neox"])
@pytest.mark.parametrize(("named", "formula"), [({}, False), ({"hidden_act": "gelu_new"}, True)], ids=str)
def test_other_families_have_it_if_they_name_it(family, named, formula):
    """BertConfig and GPTNeoXConfig: hidden_act="gelu"."""
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    config = dict.fromkeys((*sizes, "max_position_embeddings"), 8)
    assert model_from_huggingface({"model_type": family, **config, **named}).gelu_formula is formula


def test_qwen2_has_biases_on_queries_keys_and_values_only():
    """Qwen2-7B's checkpoint has 7,615,616,512 parameters."""
    config = {
        "model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064,
        "max_position_embeddings": 32768,
    }  # fmt: skip
    assert parameters(model_from_huggingface(config)) == 7_615_616_512


def test_bert_large_config_counts_its_pretraining_checkpoint():
    """BERT-large uncased with its pre-training heads, decoder tied: 336,226,108 parameters."""
    config = {
        "model_type": "bert", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
        "intermediate_size": 4096, "vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2,
    }  # fmt: skip
    assert parameters(model_from_huggingface(config)) == 336_226_108


def test_the_sequence_trained_on_can_be_chosen():
    model = model_from_huggingface(HUGGINGFACE["mixtral-8x7b"], sequence=4096)
    assert model.sequence == 4096


def test_every_catalog_model_loads_and_names_its_source():
    for name, entry in catalog.load("models").items():
        assert model_from_catalog(name).layers == entry["layers"]
        assert entry["source"]


def test_a_mapping_without_details_is_a_gpt():
    model = model_from_mapping(GPT)
    assert (model.ffn, model.kv_heads, model.head_dim, model.positions) == (256, 4, 16, 32)
    assert (model.norm, model.biases, model.dropout, model.gated_mlp) == ("layer", True, True, False)


def test_a_gated_mapping_is_a_llama():
    model = model_from_mapping({**GPT, "gated_mlp": True, "hidden": 4096, "heads": 32})
    assert (model.ffn, model.norm, model.biases, model.rotary, model.dropout) == (
        11008,
        "rms",
        False,
        True,
        False,
    )


def problems_of(mapping):
    with pytest.raises(ConfigError) as error:
        model_from_mapping(mapping)
    return [(problem.path, problem.nearest) for problem in error.value.problems]


def test_all_bad_fields_are_reported_at_once_with_the_nearest_name():
    found = problems_of({**GPT, "layers": 0, "hiden": 3, "norm": "rmz", "vocab": "many"})
    assert set(found) == {
        ("model.hiden", "hidden"),
        ("model.layers", None),
        ("model.norm", "rms"),
        ("model.vocab", None),
    }


def test_a_missing_field_is_named():
    assert problems_of({"layers": 2, "hidden": 64, "heads": 4, "sequence": 8}) == [("model.vocab", None)]


def test_heads_that_do_not_divide_hidden_are_refused():
    assert problems_of({**GPT, "heads": 5}) == [("model.heads", None)]


def test_groups_that_do_not_divide_heads_are_refused():
    assert problems_of({**GPT, "kv_heads": 3}) == [("model.kv_heads", None)]


def test_fewer_positions_than_the_sequence_are_refused():
    assert problems_of({**GPT, "positions": 16}) == [("model.positions", None)]


def test_a_formula_of_gelu_in_a_gated_block_is_refused():
    assert problems_of({**GPT, "gated_mlp": True, "gelu_formula": True}) == [("model.gelu_formula", None)]


def test_bad_expert_fields_are_reported_under_their_path():
    assert problems_of({**GPT, "moe": {"experts": 8, "topk": 2, "ffn": 4}}) == [
        ("model.moe.topk", "top_k"),
        ("model.moe.top_k", None),
    ]
    assert problems_of({**GPT, "moe": {"experts": 2, "top_k": 3, "ffn": 4}}) == [("model.moe.top_k", None)]


def test_an_unknown_catalog_name_suggests_the_nearest():
    with pytest.raises(ConfigError) as error:
        model_from_catalog("gpt3-175")
    assert error.value.problems[0].nearest == "gpt3-175b"


def test_an_unknown_hugging_face_family_is_refused():
    with pytest.raises(ConfigError, match=r"mistrall.*did you mean mistral"):
        model_from_huggingface({"model_type": "mistrall", "hidden_size": 8})


def test_a_hugging_face_config_without_a_key_names_it():
    with pytest.raises(ConfigError, match=r"model\.n_head"):
        model_from_huggingface({"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "vocab_size": 9, "n_positions": 4})


@pytest.mark.parametrize(
    ("key", "value"), [("n_embd", "wide"), ("n_layer", None), ("n_inner", "4"), ("sequence", "long")]
)
def test_a_hugging_face_value_that_is_no_number_is_refused(key, value):
    config = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 9, "n_positions": 4}
    sequence = value if key == "sequence" else None
    with pytest.raises(ConfigError, match=rf"model\.{key}"):
        model_from_huggingface({**config, key: value}, sequence)
