"""Stand-ins for communication with other GPUs: results have the right shape and take no time.

Gathering hands out a buffer that was filled once, as if the other GPUs' parts had arrived in it; scattering keeps this
GPU's part. Backwards each is the other. Of what is gathered, only this GPU's own part is kept for the backward, which
gathers it again (Korthikanti et al. 2022, arXiv 2205.05198, section 4.2.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Peer = Callable[..., Tensor]


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: int, dim: int, peer: Peer) -> Tensor:
        ctx.rows, ctx.dim, ctx.peer = x.shape[dim], dim, peer
        if rows > x.shape[dim]:
            ctx.save_for_backward(x)
        return _resized(x, rows, dim, peer)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _resized(gradient, ctx.rows, ctx.dim, ctx.peer), None, None, None


def exchanged(x: Tensor, rows: int, dim: int, peer: Peer) -> Tensor:
    """``x`` with another number of ``rows`` in a dimension; ``peer`` gives a buffer of a shape."""
    result: Tensor = _Exchange.apply(x, rows, dim, peer)
    return result


def _resized(x: Tensor, rows: int, dim: int, peer: Peer) -> Tensor:
    if rows <= x.shape[dim]:
        return x.narrow(dim, 0, rows).detach()
    return peer(*x.shape[:dim], rows, *x.shape[dim + 1 :]).detach()
