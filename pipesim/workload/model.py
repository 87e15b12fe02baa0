"""The shape of a transformer: what its layers, its embedding and its head are made of.

Only shapes live here. Parameters, FLOPs and bytes follow from them in the sibling modules, all through the
list of weight matrices in `matrices.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

_ALIGNED_ELEMENTS = 8


def aligned(*lengths: float) -> bool:
    """Whether rows of so many 2-byte elements all begin at multiples of 16 bytes, which tensor cores load at once."""
    return all(length % _ALIGNED_ELEMENTS == 0 for length in lengths)


@dataclass(frozen=True)
class Experts:
    """Mixture-of-experts feed-forward layers.

    ``ffn`` is the width of one routed expert, ``shared_ffn`` the total width of the experts that every token
    visits (0: none). Layers ``0 .. first_dense-1`` are dense; after them every ``every``-th layer is a
    mixture. Routing is taken to be balanced. A token's experts lie on at most ``node_limit`` nodes (0: on any).
    """

    experts: int
    top_k: int
    ffn: int
    shared_ffn: int = 0
    first_dense: int = 0
    every: int = 1
    node_limit: int = 0


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V3, arXiv 2412.19437, section 2.1.1).

    Queries and keys have ``nope + rope`` dimensions per head, values ``value``. ``query_rank`` 0 means that
    queries are not compressed.
    """

    query_rank: int
    kv_rank: int
    nope: int
    rope: int
    value: int


@dataclass(frozen=True)
class Model:
    """A decoder or encoder stack with its embedding and head; see `load.py` for where one comes from.

    ``sequence`` is the length trained on; ``positions`` the number of learned position embeddings (0:
    rotary, which has no parameters). ``ffn`` is the width of a dense feed-forward layer, 4 x hidden in GPT.
    ``gated_mlp`` means SwiGLU (three matrices instead of two), ``gelu_formula`` a GeLU written out in eight operations,
    which where kernels are not fused run one by one and keep three results between them (`gelu_new` in
    huggingface/transformers: src/transformers/activations.py, which GPT-2 has there). ``biases`` are those of all
    linear layers, ``qkv_bias`` those of the query, key and value projection alone. ``head`` is ``lm`` (final norm and
    vocabulary projection), ``bert`` (masked-language-model transform and decoder with bias, pooler, and
    next-sentence classifier) or ``none``. ``token_types`` is 2 in BERT, and the embedding then has its own
    norm.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    sequence: int
    gated_mlp: bool = False
    gelu_formula: bool = False
    tied_embeddings: bool = True
    positions: int = 0
    causal: bool = True
    biases: bool = True
    qkv_bias: bool = True
    norm: str = "layer"
    dropout: bool = True
    head: str = "lm"
    token_types: int = 0
    moe: Experts | None = None
    mla: Latent | None = None

    def is_mixture(self, layer: int) -> bool:
        """Whether layer ``layer`` (0-based) has experts instead of one dense feed-forward block."""
        moe = self.moe
        return moe is not None and layer >= moe.first_dense and (layer - moe.first_dense) % moe.every == 0

    @property
    def mixture_layers(self) -> int:
        """How many of the layers have experts."""
        return sum(self.is_mixture(layer) for layer in range(self.layers))

    @property
    def rotary(self) -> bool:
        """Whether positions enter by rotating queries and keys."""
        return self.positions == 0

    @property
    def query_key_dim(self) -> int:
        """Dimensions per head that a score is summed over."""
        return self.mla.nope + self.mla.rope if self.mla else self.head_dim

    @property
    def value_dim(self) -> int:
        """Dimensions per head of a value."""
        return self.mla.value if self.mla else self.head_dim

    @property
    def aligned_heads(self) -> bool:
        """Whether tensor cores take products with the scores of attention."""
        return aligned(self.query_key_dim, self.value_dim)

    @property
    def norm_parameters(self) -> int:
        """Parameters of one norm: a gain per hidden unit, and a bias too in layer norm."""
        return self.hidden * (2 if self.norm == "layer" else 1)
