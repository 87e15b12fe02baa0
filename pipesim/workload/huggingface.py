"""A `Model` from the mapping in a Hugging Face ``config.json``.

Understood: llama, mistral, mixtral, qwen2, qwen3, qwen2_moe, qwen3_moe, deepseek_v2/v3, gpt2, gpt_neox and
bert families, by the keys that their configuration classes in huggingface/transformers define.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipesim.errors import ConfigError, Problem, nearest
from pipesim.workload.load import model_from_mapping
from pipesim.workload.model import Model

_LLAMA_LIKE = (
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "qwen2_moe",
    "qwen3_moe",
    "deepseek_v2",
    "deepseek_v3",
)
FAMILIES = (*_LLAMA_LIKE, "gpt2", "gpt_neox", "bert")


def is_huggingface(mapping: Mapping[str, Any]) -> bool:
    """Whether a mapping looks like a Hugging Face config rather than our own fields."""
    return "model_type" in mapping or "num_hidden_layers" in mapping or "n_layer" in mapping


def model_from_huggingface(config: Mapping[str, Any], sequence: int | None = None, name: str | None = None) -> Model:
    """A model from a parsed config.json.

    ``sequence`` is the length trained on; without it the longest that the config allows. Raises ConfigError
    for an unknown family or a missing key.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        close = nearest(str(family), FAMILIES)
        raise ConfigError([Problem("model.model_type", "unknown family", repr(family), ", ".join(FAMILIES), close)])
    read = {"gpt2": _gpt2, "bert": _bert, "gpt_neox": _gpt_neox}.get(family, _llama)
    _check_keys(config, sequence, _NEEDED.get(family, _LLAMA_KEYS))
    mapping = {key: value for key, value in read(config).items() if value is not None}
    if sequence is not None:
        mapping["sequence"] = sequence
    if mapping.get("positions", 0):
        mapping["positions"] = max(mapping["positions"], mapping["sequence"])
    return model_from_mapping(mapping, name or str(config.get("_name_or_path") or family))


_LLAMA_KEYS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size",
    "max_position_embeddings",
)  # fmt: skip
_OPTIONAL = ("n_inner", "n_shared_experts", "moe_intermediate_size", "shared_expert_intermediate_size")
_GELU_FORMULA = "gelu_new"
_NEEDED = {"gpt2": ("n_embd", "n_layer", "n_head", "vocab_size", "n_positions")}


def _check_keys(config: Mapping[str, Any], sequence: object, needed: tuple[str, ...]) -> None:
    problems = [_whole(f"model.{key}", config.get(key), "is missing") for key in needed]
    problems += [_whole(f"model.{key}", config[key], "") for key in _OPTIONAL if config.get(key) is not None]
    if sequence is not None:
        problems.append(_whole("model.sequence", sequence, ""))
    found = [problem for problem in problems if problem]
    if found:
        raise ConfigError(found)


def _whole(path: str, value: object, absent: str) -> Problem | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return None
    message, found = (absent, None) if value is None else ("is not usable", repr(value))
    return Problem(path, message, found, "a whole number of at least 1")


def _common(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "layers": config["num_hidden_layers"],
        "hidden": config["hidden_size"],
        "heads": config["num_attention_heads"],
        "ffn": config["intermediate_size"],
        "vocab": config["vocab_size"],
        "sequence": config["max_position_embeddings"],
    }


def _llama(config: Mapping[str, Any]) -> dict[str, Any]:
    family = config["model_type"]
    return {
        **_common(config),
        "kv_heads": config.get("num_key_value_heads"),
        "head_dim": config.get("head_dim"),
        "gated_mlp": True,
        "tied_embeddings": bool(config.get("tie_word_embeddings", False)),
        "qkv_bias": bool(config.get("attention_bias", family in ("qwen2", "qwen2_moe"))),
        "moe": _experts(config),
        "mla": _latent(config),
    }


def _experts(config: Mapping[str, Any]) -> dict[str, Any] | None:
    experts = config.get("num_local_experts") or config.get("num_experts") or config.get("n_routed_experts")
    if not experts:
        return None
    width = config.get("moe_intermediate_size") or config["intermediate_size"]
    shared = config.get("shared_expert_intermediate_size") or (config.get("n_shared_experts") or 0) * width
    return {
        "experts": experts,
        "top_k": config.get("num_experts_per_tok", 2),
        "ffn": width,
        "shared_ffn": shared,
        "first_dense": config.get("first_k_dense_replace", 0),
        "every": config.get("moe_layer_freq") or config.get("decoder_sparse_step") or 1,
        "node_limit": config.get("topk_group") or 0,
    }


def _latent(config: Mapping[str, Any]) -> dict[str, Any] | None:
    if "kv_lora_rank" not in config:
        return None
    return {
        "query_rank": config.get("q_lora_rank") or 0,
        "kv_rank": config["kv_lora_rank"],
        "nope": config.get("qk_nope_head_dim"),
        "rope": config.get("qk_rope_head_dim"),
        "value": config.get("v_head_dim"),
    }


def _gpt2(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "layers": config["n_layer"],
        "hidden": config["n_embd"],
        "heads": config["n_head"],
        "ffn": config.get("n_inner") or 4 * config["n_embd"],
        "vocab": config["vocab_size"],
        "sequence": config["n_positions"],
        "positions": config["n_positions"],
        "tied_embeddings": bool(config.get("tie_word_embeddings", True)),
        "gelu_formula": config.get("activation_function", _GELU_FORMULA) == _GELU_FORMULA,
    }


def _gpt_neox(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_common(config),
        "positions": 0,
        "tied_embeddings": bool(config.get("tie_word_embeddings", False)),
        "gelu_formula": config.get("hidden_act") == _GELU_FORMULA,
    }


def _bert(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_common(config),
        "positions": config["max_position_embeddings"],
        "token_types": config.get("type_vocab_size", 2),
        "causal": False,
        "head": "bert",
        "gelu_formula": config.get("hidden_act") == _GELU_FORMULA,
        "tied_embeddings": bool(config.get("tie_word_embeddings", True)),
    }
