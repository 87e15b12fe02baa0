"""Exact parameter counts of a layer, the embedding and the head."""

from __future__ import annotations

from dataclasses import dataclass

from pipesim.workload.matrices import Matrix, head_matrices, layer_matrices, qkv_matrices
from pipesim.workload.model import Model


@dataclass(frozen=True)
class Count:
    """Parameters in three groups, because parallelism divides them differently.

    ``split``: divided by tensor parallelism; ``experts``: routed experts, divided by expert parallelism (or
    by tensor parallelism without it); ``replicated``: norms, biases after a row split, positions, routers.
    """

    split: int = 0
    experts: int = 0
    replicated: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.split + other.split, self.experts + other.experts, self.replicated + other.replicated)

    def times(self, number: int) -> Count:
        """So many copies."""
        return Count(number * self.split, number * self.experts, number * self.replicated)

    @property
    def total(self) -> int:
        """All of them."""
        return self.split + self.experts + self.replicated

    def per_gpu(self, tensor: int = 1, expert: int = 1) -> float:
        """Parameters that one GPU holds. With ``expert`` > 1 experts are whole, else split over
        ``tensor``."""
        expert_ways = expert if expert > 1 else tensor
        return self.split / tensor + self.experts / expert_ways + self.replicated


def layer_parameters(model: Model, mixture: bool = False) -> Count:
    """One transformer layer, its two norms included (12 h^2 + 13 h in GPT)."""
    count = sum((_matrix(matrix) for matrix in layer_matrices(model, mixture)), Count())
    return count + Count(replicated=2 * model.norm_parameters + _latent_norms(model))


def pre_attention_parameters(model: Model) -> Count:
    """What lies in front of a layer's attention core: its norm and the projection to queries, keys and values."""
    count = sum((_matrix(matrix) for matrix in qkv_matrices(model)), Count())
    return count + Count(replicated=model.norm_parameters + _latent_norms(model))


def post_attention_parameters(model: Model, mixture: bool = False) -> Count:
    """What follows it: the output projection, and the feed-forward block with its norm."""
    matrices = layer_matrices(model, mixture)[len(qkv_matrices(model)) :]
    return sum((_matrix(matrix) for matrix in matrices), Count(replicated=model.norm_parameters))


def embedding_parameters(model: Model) -> Count:
    """Token, position and token-type embeddings, and the norm that follows them in BERT."""
    norm = model.norm_parameters if model.token_types else 0
    rows = model.positions + model.token_types
    return Count(split=model.vocab * model.hidden, replicated=rows * model.hidden + norm)


def head_parameters(model: Model, own_vocabulary: bool | None = None) -> Count:
    """Final norm and vocabulary projection, or BERT's three heads.

    ``own_vocabulary`` counts the projection's matrix even when it is tied to the embedding, as the last of
    several stages holds a copy of it; by default it counts only when it is not tied.
    """
    if model.head == "none":
        return Count()
    own = not model.tied_embeddings if own_vocabulary is None else own_vocabulary
    vocabulary = Count(split=model.vocab * model.hidden if own else 0)
    if model.head == "bert":
        return vocabulary + _bert_heads(model)
    return vocabulary + Count(replicated=model.norm_parameters)


def parameters(model: Model) -> int:
    """All parameters of the model, each tied matrix counted once."""
    layers = sum(layer_parameters(model, model.is_mixture(layer)).total for layer in range(model.layers))
    return layers + embedding_parameters(model).total + head_parameters(model).total


def active_parameters(model: Model) -> int:
    """Parameters that one token visits: the routed experts it is not sent to are left out."""
    moe = model.moe
    if moe is None:
        return parameters(model)
    idle = model.mixture_layers * layer_parameters(model, True).experts * (moe.experts - moe.top_k)
    return parameters(model) - idle // moe.experts


def _matrix(matrix: Matrix) -> Count:
    if matrix.copies > 1:
        return Count(experts=matrix.parameters)
    if matrix.split == "none":
        return Count(replicated=matrix.parameters)
    weights = matrix.inputs * matrix.outputs
    bias = matrix.parameters - weights
    if matrix.split == "row":
        return Count(split=weights, replicated=bias)
    return Count(split=weights + bias)


def _latent_norms(model: Model) -> int:
    return model.mla.query_rank + model.mla.kv_rank if model.mla else 0


def _bert_heads(model: Model) -> Count:
    """Transform with its norm, decoder bias, pooler, next-sentence classifier (two classes)."""
    transform = head_matrices(model)[0].parameters + model.norm_parameters
    pooler = model.hidden * (model.hidden + 1)
    classifier = 2 * (model.hidden + 1)
    return Count(split=model.vocab, replicated=transform + pooler + classifier)
