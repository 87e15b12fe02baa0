"""Floating-point operations, a multiply-add counted as two.

The convention is Megatron's and Korthikanti et al. 2022 (arXiv 2205.05198, appendix A), so that MFU compares
with published numbers: only matrix products count; attention counts the full square of scores even when it is
causal; the backward is twice the forward. For GPT this is exactly 72 B L s h^2 (1 + s/(6h) + V/(12 h L)).
*Model* FLOPs leave recomputation out (MFU); *hardware* FLOPs include it (HFU).
"""

from __future__ import annotations

from dataclasses import dataclass

from pipesim.workload.matrices import head_matrices, layer_matrices
from pipesim.workload.model import Model

_BACKWARD = 2


@dataclass(frozen=True)
class StepFlops:
    """Operations of one whole training step over all GPUs."""

    model: float
    hardware: float


def attention_core_flops(model: Model) -> int:
    """Forward of scores and context of one layer for one sequence, full square: 4 s^2 h in GPT."""
    return 2 * model.sequence**2 * model.heads * (model.query_key_dim + model.value_dim)


def layer_flops(model: Model, mixture: bool = False) -> int:
    """Forward of one layer for one sequence: 24 s h^2 + 4 s^2 h in GPT."""
    linear = sum(matrix.flops_per_token for matrix in layer_matrices(model, mixture))
    return model.sequence * linear + attention_core_flops(model)


def head_flops(model: Model) -> int:
    """Forward of the head for one sequence: 2 s h V; the embedding is a look-up and counts nothing."""
    return model.sequence * sum(matrix.flops_per_token for matrix in head_matrices(model))


def forward_flops(model: Model) -> int:
    """Forward of the whole model for one sequence."""
    mixtures = model.mixture_layers
    return (
        mixtures * layer_flops(model, True) + (model.layers - mixtures) * layer_flops(model, False) + head_flops(model)
    )


def recomputed_flops(model: Model, recompute: str, flash_attention: bool) -> int:
    """Forward work repeated in the backward of one sequence.

    FlashAttention repeats the scores inside its backward kernel; by convention that is not counted, and
    ``selective`` then has nothing left to repeat.
    """
    if recompute == "full":
        return forward_flops(model) - head_flops(model)
    if recompute == "selective" and not flash_attention:
        return model.layers * attention_core_flops(model)
    return 0


def step_flops(model: Model, samples: int, recompute: str = "none", flash_attention: bool = True) -> StepFlops:
    """Operations of a step over ``samples`` sequences."""
    once = (1 + _BACKWARD) * forward_flops(model)
    again = recomputed_flops(model, recompute, flash_attention)
    return StepFlops(float(samples * once), float(samples * (once + again)))
