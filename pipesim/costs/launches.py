"""How many kernels a mixture of experts launches, against a dense layer.

The launch floor of the catalog was fitted on dense layers of Megatron-DeepSpeed (`launch_floor` in gpus.yaml). A
mixture launches more kernels, each of which costs the host as much: its floor is the dense one times the ratio of the
two counts, in either direction, since nearly every kernel has its counterpart in the backward. Counts are of forwards,
of operations started from Python: loops over experts inside one operation (casts, products) run in C++ and count as
one. That the host waits for the counts of tokens before it launches the experts is not priced.

Sources: dense, NVIDIA/Megatron-LM megatron/model/transformer.py (`ParallelTransformerLayer`); router, and what is left
of router and counting with DeepEP, NVIDIA/Megatron-LM docs/discussions/deepseek-v3-gb200-optimization (sections 2.1.4
and 2.2.1: 72 kernels, fused 31, with DeepEP 17); the rest, counted in Megatron Core's token_dispatcher.py
(`MoEAlltoAllTokenDispatcher`, with fused permutation) and NVIDIA/TransformerEngine's pytorch/permutation.py.
"""

from __future__ import annotations

from typing import Final

from pipesim.workload.model import Experts
from pipesim.workload.shard import Shard

DENSE: Final = 16
"""Two norms, four products and the bias of one, two batched products, softmax, dropout, a copy of the context, GeLU,
two additions to the residual stream; one all-reduce, between none on one GPU and two on several."""

_ATTENTION: Final = 8
"""Two norms, two products, rotation of queries and of keys, the core, the addition to the residual stream."""
_ROUTER: Final = 31
_ROUTER_WITH_DEEPEP: Final = 17
_COUNTS: Final = 10
"""Tokens per expert, GPU and both: six sums and copies, one all-gather, three copies to the host."""
_PLACES: Final = 3
"""Finding every copy's place; one more kernel moves them."""
_PERMUTE: Final = _PLACES + 1
_EXPERTS: Final = 3
_UNPERMUTE: Final = 1
_RESIDUAL: Final = 1
_EXCHANGES: Final = {"all-to-all": 3, "deduplicated": 2}
"""Tokens, their probabilities, results; DeepEP sends tokens and probabilities together."""
_CHUNK_PLACES: Final = 2
_CHUNKS: Final = _CHUNK_PLACES + 2
"""What an all-to-all leaves sorted by sender, sorted by expert and back: finding places, and moving, each way."""


def mixture_ratio(moe: Experts, shard: Shard, dispatch: str) -> float:
    """Kernels of a layer with experts over those of a dense one; ``dispatch`` as in `Training`."""
    return _mixture(moe, shard, dispatch) / DENSE


def routing_kernels(moe: Experts, shard: Shard, dispatch: str) -> int:
    """Kernels of a forward that choose experts, count tokens and find places, too small for their bytes to matter."""
    return router_kernels(shard, dispatch) + _counts(shard, dispatch) + _PLACES + _chunks(moe, shard, dispatch) // 2


def router_kernels(shard: Shard, dispatch: str) -> int:
    """Those of the router alone, which a backward has too; with DeepEP, those that count tokens included."""
    return _ROUTER_WITH_DEEPEP if shard.expert > 1 and dispatch == "deduplicated" else _ROUTER


def _mixture(moe: Experts, shard: Shard, dispatch: str) -> int:
    exchanges = _EXCHANGES[dispatch] if shard.expert > 1 else 0
    moving = _PERMUTE + _chunks(moe, shard, dispatch) + exchanges + _UNPERMUTE
    routing = router_kernels(shard, dispatch) + _counts(shard, dispatch)
    return _ATTENTION + routing + moving + _EXPERTS + _RESIDUAL


def _counts(shard: Shard, dispatch: str) -> int:
    return _COUNTS if shard.expert > 1 and dispatch == "all-to-all" else 0


def _chunks(moe: Experts, shard: Shard, dispatch: str) -> int:
    return _CHUNKS if _counts(shard, dispatch) and moe.experts > shard.expert else 0
