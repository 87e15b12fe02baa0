"""The feed-forward block of one GPU, dense or with experts."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipesim.calibration.local import Local, whole
from pipesim.workload.matrices import feed_forward_matrices
from pipesim.workload.model import Model

_SCALE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715


class Activation(nn.Module):
    """GeLU, by PyTorch or as a formula, or SwiGLU of two halves."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.gated, self.formula = model.gated_mlp, model.gelu_formula

    def forward(self, x: Tensor) -> Tensor:
        """(..., width or twice it) to (..., width)."""
        if self.formula:
            return 0.5 * x * (1 + torch.tanh(_SCALE * (x + _CUBIC * x**3)))
        if not self.gated:
            return functional.gelu(x, approximate="tanh")
        gate, value = x.chunk(2, dim=-1)
        return functional.silu(gate) * value


class Dense(nn.Module):
    """Up, activation, down; also the experts that every token visits."""

    def __init__(self, local: Local, mixture: bool, name: str) -> None:
        super().__init__()
        matrices = {matrix.name: matrix for matrix in feed_forward_matrices(local.model, mixture)}
        self.local = local
        self.up, self.down = local.linear(matrices[f"{name}_up"]), local.linear(matrices[f"{name}_down"])
        self.activation = Activation(local.model)

    def activated(self) -> list[tuple[int, ...]]:
        """Shapes of what activation functions are applied to."""
        return [(self.local.tokens, self.up.weight.shape[0])]

    def forward(self, x: Tensor) -> Tensor:
        """(rows, hidden) to the same."""
        hidden = self.activation(self.up(self.local.exchange(x, self.local.tokens)))
        return self.local.exchange(self.down(hidden), self.local.rows)


class Mixture(nn.Module):
    """Router, routed experts and shared ones. The load is balanced, so that every expert gets as many copies of
    tokens, and as many arrive from other GPUs as leave for them.
    """

    def __init__(self, local: Local) -> None:
        super().__init__()
        moe = local.model.moe
        assert moe is not None
        self.local, self.top_k = local, moe.top_k
        matrices = {matrix.name: matrix for matrix in feed_forward_matrices(local.model, True)}
        self.router = local.linear(matrices["router"])
        self.up, self.down = local.linear(matrices["expert_up"]), local.linear(matrices["expert_down"])
        self.activation = Activation(local.model)
        self.shared = Dense(local, True, "shared") if moe.shared_ffn else None
        self.here = whole(local.tokens * local.shard.expert_tensor / local.shard.tensor)
        self.groups = max(moe.experts // local.shard.expert, 1)
        copies = self.here * moe.top_k
        self.each = whole(copies / self.groups)
        order = torch.randperm(self.groups * self.each, generator=torch.Generator().manual_seed(0))
        self.sent = (order % self.here).to(local.device)
        self.back = (order.argsort()[:copies]).to(local.device)

    def activated(self) -> list[tuple[int, ...]]:
        """Shapes of what activation functions are applied to."""
        routed = (self.groups * self.each, self.up.weight.shape[-2])
        return [routed, *(self.shared.activated() if self.shared else [])]

    def forward(self, x: Tensor) -> Tensor:
        """(rows, hidden) to the same."""
        chosen = self.router(x).float().softmax(dim=-1).topk(self.top_k, dim=-1).values
        weights = self.local.exchange(chosen.to(x.dtype), self.here)
        copies = self.local.exchange(x, self.here).index_select(0, self.sent)
        by_expert = copies.view(self.groups, self.each, -1) if self.groups > 1 else copies
        results = self.down(self.activation(self.up(by_expert))).view(len(self.sent), -1)
        returned = results.index_select(0, self.back).view(self.here, self.top_k, -1)
        combined = self.local.exchange((returned * weights[..., None]).sum(dim=1), self.local.rows)
        return combined if self.shared is None else combined + self.shared(x)
