"""The weight matrices of a layer and of the head: one list that parameters, FLOPs, bytes and times derive
from.

Sources: GPT, Narayanan et al. 2021 (arXiv 2104.04473) appendix; grouped queries, SwiGLU, experts and latent
attention as counted by NVIDIA/Megatron-LM:megatron/training/training.py (num_floating_point_operations);
latent attention, DeepSeek-V3 (arXiv 2412.19437) section 2.1.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from pipesim.workload.model import Experts, Latent, Model


@dataclass(frozen=True)
class Matrix:
    """One linear map from ``inputs`` to ``outputs`` features.

    ``split`` is how tensor parallelism cuts it: ``column`` (outputs), ``row`` (inputs) or ``none``.
    ``copies`` matrices of this shape exist (routed experts), of which each token visits ``active``.
    ``shared_input`` marks a matrix that reads the same tensor as the one before it.
    """

    name: str
    inputs: int
    outputs: int
    split: str
    bias: bool = False
    copies: int = 1
    active: int = 1
    shared_input: bool = False

    @property
    def parameters(self) -> int:
        """Weights and biases of all copies."""
        return self.copies * (self.inputs * self.outputs + (self.outputs if self.bias else 0))

    @property
    def flops_per_token(self) -> int:
        """Forward floating-point operations per token, a multiply-add counted as two."""
        return 2 * self.active * self.inputs * self.outputs


@lru_cache(maxsize=256)
def attention_matrices(model: Model) -> tuple[Matrix, ...]:
    """Projections around the attention core of one layer."""
    if model.mla:
        return _latent_matrices(model, model.mla)
    queries = model.heads * model.head_dim
    keys_and_values = 2 * model.kv_heads * model.head_dim
    return (
        Matrix("qkv", model.hidden, queries + keys_and_values, "column", model.qkv_bias),
        Matrix("out", queries, model.hidden, "row", model.biases),
    )


def _latent_matrices(model: Model, mla: Latent) -> tuple[Matrix, ...]:
    queries = model.heads * (mla.nope + mla.rope)
    if mla.query_rank:
        query: tuple[Matrix, ...] = (
            Matrix("query_down", model.hidden, mla.query_rank, "none"),
            Matrix("query_up", mla.query_rank, queries, "column"),
        )
    else:
        query = (Matrix("query", model.hidden, queries, "column"),)
    return (
        *query,
        Matrix("kv_down", model.hidden, mla.kv_rank + mla.rope, "none", shared_input=True),
        Matrix("kv_up", mla.kv_rank, model.heads * (mla.nope + mla.value), "column"),
        Matrix("out", model.heads * mla.value, model.hidden, "row"),
    )


def qkv_matrices(model: Model) -> tuple[Matrix, ...]:
    """Projections in front of the attention core: all but the output's."""
    return attention_matrices(model)[:-1]


@lru_cache(maxsize=256)
def feed_forward_matrices(model: Model, mixture: bool) -> tuple[Matrix, ...]:
    """Feed-forward block of one layer: dense, or router, routed and shared experts."""
    if mixture and model.moe:
        return _expert_matrices(model, model.moe)
    return _block(model, "mlp", model.ffn, model.biases)


def _expert_matrices(model: Model, moe: Experts) -> tuple[Matrix, ...]:
    router = Matrix("router", model.hidden, moe.experts, "none")
    routed = _block(model, "expert", moe.ffn, False, moe.experts, moe.top_k)
    shared = _block(model, "shared", moe.shared_ffn, False) if moe.shared_ffn else ()
    return (router, *routed, *shared)


def _block(model: Model, name: str, width: int, bias: bool, copies: int = 1, active: int = 1) -> tuple[Matrix, ...]:
    up_width = width * (2 if model.gated_mlp else 1)
    return (
        Matrix(f"{name}_up", model.hidden, up_width, "column", bias, copies, active),
        Matrix(f"{name}_down", width, model.hidden, "row", bias, copies, active),
    )


def layer_matrices(model: Model, mixture: bool) -> tuple[Matrix, ...]:
    """All weight matrices of one layer in the order in which a token meets them."""
    return attention_matrices(model) + feed_forward_matrices(model, mixture)


@lru_cache(maxsize=256)
def head_matrices(model: Model) -> tuple[Matrix, ...]:
    """Linear maps of the head; the vocabulary projection comes last. Pooler and classifier see one token
    per sequence, so they count as parameters (`parameters.py`) and not here.
    """
    if model.head == "none":
        return ()
    bert = model.head == "bert"
    transform = (Matrix("transform", model.hidden, model.hidden, "none", True),) if bert else ()
    return (*transform, Matrix("vocabulary", model.hidden, model.vocab, "column", bert))
