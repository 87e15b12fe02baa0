"""Floating-point operations, a multiply-add counted as two.

The convention is Megatron's and Korthikanti et al. 2022 (arXiv 2205.05198, appendix A), so that MFU compares
with published numbers: only matrix products count; attention counts the full square of scores even when it is
causal; the backward is twice the forward. For GPT this is exactly 72 B L s h^2 (1 + s/(6h) + V/(12 h L)).
*Model* FLOPs leave recomputation out (MFU); *hardware* FLOPs include it (HFU).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from pipesim.ir.cut import Part
from pipesim.workload.matrices import Matrix, head_matrices, layer_matrices, qkv_matrices
from pipesim.workload.model import Model
from pipesim.workload.recompute import repeated_matrices

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
    layers = forward_flops(model) - head_flops(model)
    if recompute == "full":
        return layers
    if recompute == "full-early-stop":
        return layers - _over_layers(model, lambda mixture: layer_matrices(model, mixture)[-1:])
    if recompute == "per-op":
        return _over_layers(model, lambda mixture: repeated_matrices(model, mixture))
    if recompute == "without-attention":
        return layers - model.layers * attention_core_flops(model)
    if recompute == "selective" and not flash_attention:
        return model.layers * attention_core_flops(model)
    return 0


def _over_layers(model: Model, matrices: Callable[[bool], Iterable[Matrix]]) -> int:
    """Forward of some matrices of every layer for one sequence."""
    kinds = [model.is_mixture(layer) for layer in range(model.layers)]
    each = {kind: sum(matrix.flops_per_token for matrix in matrices(kind)) for kind in set(kinds)}
    return model.sequence * sum(each[kind] for kind in kinds)


def part_flops(model: Model, part: Part, mixture: bool = False) -> int:
    """Forward of one part of a layer for one sequence: 6 s h^2, 4 s^2 h and 18 s h^2 in GPT."""
    projected = model.sequence * sum(matrix.flops_per_token for matrix in qkv_matrices(model))
    core = attention_core_flops(model)
    rest = layer_flops(model, mixture) - projected - core
    return {Part.QKV: projected, Part.ATTENTION: core, Part.POST: rest}.get(part, 0)


def repeated_flops(model: Model, parts: Collection[Part]) -> int:
    """Forward work of these parts of all layers for one sequence."""
    layers = [model.is_mixture(layer) for layer in range(model.layers)]
    return sum(part_flops(model, part, mixture) for part in parts for mixture in layers)


def step_flops(
    model: Model,
    samples: int,
    recompute: str = "none",
    flash_attention: bool = True,
    repeated: Collection[Part] | None = None,
) -> StepFlops:
    """Operations of a step over ``samples`` sequences. ``repeated``: the parts of every layer that the backward
    repeats, instead of what ``recompute`` says.
    """
    once = (1 + _BACKWARD) * forward_flops(model)
    again = recomputed_flops(model, recompute, flash_attention) if repeated is None else repeated_flops(model, repeated)
    return StepFlops(float(samples * once), float(samples * (once + again)))
