"""What modules of one GPU have in common: the model, how it is cut, dtype and device."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipesim.calibration.exchange import exchanged
from pipesim.calibration.linear import Deferred, Linear
from pipesim.costs.products import product
from pipesim.workload.eager import norm_by_operations
from pipesim.workload.matrices import Matrix
from pipesim.workload.memory import tokens
from pipesim.workload.model import Model
from pipesim.workload.shard import Shard
from pipesim.workload.training import Training

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

DROPOUT = 0.1
"""Of attention and of the residual stream (NVIDIA/Megatron-LM:megatron/training/arguments.py)."""

_SCALE = 0.02
_EPSILON = 1e-6
_SEED = 0


class OperationsNorm(nn.Module):
    """RMS norm as Llama's own code has it, in fp32 (pytorch/torchtitan:torchtitan/models/norms.py)."""

    def __init__(self, gain: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(gain)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        precise = x.float()
        return (precise * torch.rsqrt(precise.pow(2).mean(-1, keepdim=True) + _EPSILON)).type_as(x) * self.weight


def whole(size: float) -> int:
    """A size as a whole number, padded where it does not divide."""
    return math.ceil(size - 1e-9)


def seeded(device: torch.device) -> torch.Generator:
    """Random numbers that are the same in every run."""
    return torch.Generator(device).manual_seed(_SEED)


@dataclass
class Local:
    """One GPU's share of a model. Values are random, since real ones take real power; ``later`` collects the work of
    weight gradients.
    """

    model: Model
    training: Training
    shard: Shard
    device: torch.device
    later: Deferred = field(default_factory=Deferred)

    def __post_init__(self) -> None:
        self._random = seeded(self.device)
        self._peers: dict[tuple[int, ...], Tensor] = {}

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return DTYPES[self.training.precision]

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch that the tensor-parallel group works on."""
        return whole(tokens(self.model, self.training, self.shard))

    @property
    def rows(self) -> int:
        """Tokens of the residual stream on this GPU."""
        return whole(self.tokens / self.shard.sequence_ways)

    @property
    def dropout(self) -> float:
        """Probability of dropping."""
        return DROPOUT if self.model.dropout else 0.0

    def random(self, *shape: int) -> Tensor:
        """Normally distributed values, as activations are."""
        return torch.empty(shape, dtype=self.dtype, device=self.device).normal_(generator=self._random)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Whole numbers below ``high``."""
        return torch.randint(high, shape, device=self.device, generator=self._random)

    def weight(self, *shape: int) -> Tensor:
        """A weight as it is initialised."""
        return self.random(*shape).mul_(_SCALE)

    def accumulated(self, weight: Tensor) -> Tensor:
        """A gradient to add those of micro-batches to."""
        half = self.training.gradients == "half"
        return torch.zeros_like(weight, dtype=self.dtype if half else torch.float32)

    def linear(self, matrix: Matrix, outputs: int | None = None) -> Linear:
        """A matrix's share on this GPU; ``outputs`` of it where they do not divide evenly."""
        sizes = product(matrix, "forward", self.tokens, self.shard)
        shape = (whole(sizes.n) if outputs is None else outputs, whole(sizes.k))
        weight = self.weight(*((sizes.groups, *shape) if sizes.groups > 1 else shape))
        bias = self.weight(shape[0]) if matrix.bias else None
        accumulated = None if self.training.fused_gradients else self.accumulated(weight)
        return Linear(weight, bias, self.later, accumulated)

    def norm(self, width: int) -> nn.Module:
        """A norm of the model's kind."""
        if norm_by_operations(self.model, self.training):
            return OperationsNorm(self.random(width))
        kind = nn.LayerNorm if self.model.norm == "layer" else nn.RMSNorm
        return kind(width, device=self.device, dtype=self.dtype)

    def exchange(self, x: Tensor, rows: int, dim: int = 0) -> Tensor:
        """``x`` after communication with peers that leaves ``rows`` rows here; what peers send is random."""
        return x if rows == x.shape[dim] else exchanged(x, rows, dim, self._peer)

    @property
    def _peer(self) -> Callable[..., Tensor]:
        def peer(*shape: int) -> Tensor:
            if shape not in self._peers:
                self._peers[shape] = self.random(*shape)
            return self._peers[shape]

        return peer
