"""Single kernels of a model on one GPU: matrix products, the attention core, memory-bound kernels.

Each is run on inputs that take turns, so many that they do not stay in the cache, as in training, where other layers
run in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from pipesim.calibration.attention import Core, Rotary
from pipesim.calibration.feed_forward import Activation
from pipesim.calibration.local import Local, whole
from pipesim.costs.gemm import Role
from pipesim.costs.products import Product

_MOST_COPIES = 32

Work = Callable[[], object]


def product_works(local: Local, sizes: Product, role: Role, cache_bytes: int) -> list[Work]:
    """A matrix product, its operands laid out as in the forward or in either half of the backward."""
    m, n, k = whole(sizes.m), whole(sizes.n), whole(sizes.k)
    # Activations (tokens, features) and weights (outputs, inputs) as stored; a weight gradient sums over tokens.
    stored = {"forward": ((m, k), (n, k)), "input_grad": ((m, k), (k, n)), "weight_grad": ((k, n), (k, m))}[role]
    multiply = {"forward": _forward, "input_grad": torch.matmul, "weight_grad": _weight_grad}[role]
    groups = (sizes.groups,) if sizes.groups > 1 else ()
    return _turns(local, [(*groups, *shape) for shape in stored], multiply, cache_bytes)


def _forward(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.mT


def _weight_grad(gradient: Tensor, x: Tensor) -> Tensor:
    return gradient.mT @ x


def core_works(local: Local, backward: bool, cache_bytes: int) -> list[Work]:
    """The attention core."""
    model, shard, batch = local.model, local.shard, local.training.micro_batch
    heads, length = whole(model.heads / shard.tensor), whole(model.sequence / shard.context)
    groups = heads if model.mla else max(model.kv_heads // shard.tensor, 1)
    widths = ((heads, model.query_key_dim), (groups, model.query_key_dim), (groups, model.value_dim))
    shapes = [(batch, count, length, width) for count, width in widths]
    return _turns(local, shapes, Core(local), cache_bytes, backward)


def norm_works(local: Local, backward: bool, cache_bytes: int) -> list[Work]:
    """A norm of the residual stream."""
    shape = (local.rows, local.model.hidden)
    return _turns(local, [shape], local.norm(local.model.hidden), cache_bytes, backward)


def residual_works(local: Local, cache_bytes: int) -> list[Work]:
    """Dropout and addition to the residual stream."""
    shape = (local.rows, local.model.hidden)
    dropout = partial(torch.nn.functional.dropout, p=local.dropout)
    return _turns(local, [shape, shape], lambda x, branch: x + dropout(branch), cache_bytes)


def activation_works(local: Local, backward: bool, cache_bytes: int) -> list[Work]:
    """The activation function of a dense feed-forward block."""
    model = local.model
    width = whole(model.ffn / local.shard.tensor) * (2 if model.gated_mlp else 1)
    return _turns(local, [(local.tokens, width)], Activation(model), cache_bytes, backward)


def rotary_works(local: Local, cache_bytes: int) -> list[Work]:
    """Rotation of queries and keys."""
    model, shard = local.model, local.shard
    heads = whole(model.heads / shard.tensor) + max(model.kv_heads // shard.tensor, 1)
    shape = (local.training.micro_batch, heads, whole(model.sequence / shard.context), model.head_dim)
    return _turns(local, [shape], Rotary(local, model.head_dim), cache_bytes)


def _turns(
    local: Local,
    shapes: Sequence[tuple[int, ...]],
    compute: Callable[..., Tensor],
    cache_bytes: int,
    backward: bool = False,
) -> list[Work]:
    """``compute``, or its backward, on as many sets of inputs as it takes to fill the cache twice."""
    size = sum(math.prod(shape) for shape in shapes) * local.training.element_bytes
    copies = min(max(math.ceil(2 * cache_bytes / size), 2), _MOST_COPIES)
    inputs = [[local.random(*shape) for shape in shapes] for _ in range(copies)]
    make = _backward if backward else _run
    return [make(compute, each) for each in inputs]


def _run(compute: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Work:
    def work() -> Tensor:
        with torch.no_grad():
            return compute(*inputs)

    return work


def _backward(compute: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Work:
    wanted = [each.requires_grad_() for each in inputs]
    result = compute(*wanted)
    return partial(torch.autograd.grad, result, wanted, torch.ones_like(result), retain_graph=True)
