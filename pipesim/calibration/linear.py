"""Linear maps whose backward computes the gradient of the input, and puts that of the weights off.

So do implementations of zero-bubble schedules: Qi et al. 2024 (arXiv 2401.10241, released code,
megatron/core/weight_grad_store.py) and DeepSeek's DualPipe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Deferred:
    """Work that was put off."""

    def __init__(self) -> None:
        self._works: deque[Callable[[], None]] = deque()

    def add(self, work: Callable[[], None]) -> None:
        """Put off ``work``."""
        self._works.append(work)

    def run(self) -> None:
        """Do it, each piece freed once it is done."""
        while self._works:
            self._works.popleft()()


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: Linear) -> Tensor:
        ctx.save_for_backward(x)
        ctx.linear = linear
        return linear.product(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        linear: Linear = ctx.linear
        linear.later.add(partial(linear.weight_grad, x, gradient))
        return gradient @ linear.weight, None


class Linear(nn.Module):
    """``x`` (rows, inputs) to (rows, outputs) with a weight (outputs, inputs); or groups of both in front.

    ``accumulated``: the gradient that each micro-batch's is added to; None where products would do that themselves,
    which PyTorch has none for. Gradients of the latest weight-gradient work are in ``gradients``.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, later: Deferred, accumulated: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias, self.later, self.accumulated = weight, bias, later, accumulated
        self.gradients: tuple[Tensor, Tensor | None] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The map."""
        result: Tensor = _Apply.apply(x, self)
        return result

    def product(self, x: Tensor) -> Tensor:
        """The map, without a backward."""
        return x @ self.weight.mT if self.bias is None else functional.linear(x, self.weight, self.bias)

    def weight_grad(self, x: Tensor, gradient: Tensor) -> None:
        """Gradients of the weight and of the bias."""
        self.gradients = gradient.mT @ x, None if self.bias is None else gradient.sum(0)
        if self.accumulated is not None:
            self.accumulated.add_(self.gradients[0])
