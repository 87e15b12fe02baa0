"""Pieces of a model with the phases that are measured: forward, and the two halves of the backward."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from pipesim.calibration.layer import Embedding, Head, Layer
from pipesim.calibration.local import Local


class Piece(Protocol):
    """Something that runs forward and backward."""

    def forward(self) -> Tensor:
        """The result, with what its backward needs."""

    def input_grad(self, result: Tensor) -> None:
        """Gradients of the input."""

    def weight_grad(self, result: Tensor) -> None:
        """Gradients of the weights, after `input_grad`."""

    def leave(self) -> Any:
        """Run forward on a copy of the input; what stays in use is what the backward needs."""


class Block:
    """A layer, or the head. Gradients of norms come with that of the input, whose products they share."""

    def __init__(self, local: Local, module: Layer | Head) -> None:
        self.module, self.later = module, local.later
        self.input = local.random(local.rows, local.model.hidden).requires_grad_()
        self.wanted = [self.input, *module.parameters()]
        self.gradient = None if isinstance(module, Head) else local.random(local.rows, local.model.hidden)

    def forward(self) -> Tensor:
        """The next layer's input, or the loss."""
        result: Tensor = self.module(self.input)
        return result

    def input_grad(self, result: Tensor) -> None:
        """Back to the input."""
        torch.autograd.grad(result, self.wanted, self.gradient)

    def weight_grad(self, result: Tensor) -> None:
        """What that put off."""
        self.later.run()

    def leave(self) -> Any:
        """The graph; the result itself is kept by the next layer."""
        return self.module(self.input.clone()).grad_fn


class Entry:
    """The embedding, whose whole backward is a weight gradient, added to the accumulated one."""

    def __init__(self, local: Local) -> None:
        self.module = Embedding(local)
        self.input = local.integers(self.module.vocabulary, local.tokens)
        self.wanted = list(self.module.parameters())
        self.accumulated = [local.accumulated(weight) for weight in self.wanted]
        self.gradient = local.random(local.rows, local.model.hidden)

    def forward(self) -> Tensor:
        """The first layer's input."""
        result: Tensor = self.module(self.input)
        return result

    def input_grad(self, result: Tensor) -> None:
        """Tokens have no gradient."""

    def weight_grad(self, result: Tensor) -> None:
        """Gradients of the tables."""
        gradients = torch.autograd.grad(result, self.wanted, self.gradient)
        for total, gradient in zip(self.accumulated, gradients, strict=True):
            total.add_(gradient)

    def leave(self) -> Any:
        """The graph; the result itself is kept by the first layer."""
        return self.module(self.input.clone()).grad_fn
