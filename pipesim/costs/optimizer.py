"""Bytes that one update moves per parameter that a GPU updates."""

from __future__ import annotations

from pipesim.workload.memory import MOMENT_BYTES
from pipesim.workload.training import Training

_PARAMETER = 4  # what is updated is fp32
_CLIPPED = 3 * _PARAMETER  # PyTorch's clip_grad_norm_: the gradient read, then read and written


def update_bytes(training: Training) -> float:
    """All passes over gradient, moments and parameter, and writing the weight in its own precision where it has one.

    Fused, as Megatron-LM's mixed-precision optimizer goes over them (megatron/core/optimizer): the gradient twice
    (norm, update) and with fp16 twice more (loss unscaling); moments and parameter read and written; the parameter read
    again to write the weight, unless weight and remainder are the parameter. 38 for Adam in bf16 and 46 in fp16.
    """
    copied = 0 if training.precision == "fp32" or training.remainders else _PARAMETER + training.element_bytes
    if not training.fused_optimizer:
        return _op_by_op(training) + (0 if training.fully_sharded else copied)
    passes = 4 if training.precision == "fp16" else 2
    return passes * training.gradient_bytes + 2 * MOMENT_BYTES[training.optimizer] + 2 * _PARAMETER + copied


def _op_by_op(training: Training) -> float:
    """PyTorch's kernels, one for all parameters each: 92 bytes for Adam.

    pytorch/pytorch:torch/optim/adamw.py, sgd.py (`_multi_tensor_adamw`, `_multi_tensor_sgd`).
    """
    gradient, parameter = _PARAMETER, _PARAMETER
    if training.optimizer.startswith("adam"):
        moment = MOMENT_BYTES[training.optimizer] / 2
        kernels = [
            2 * parameter,  # weight decay
            2 * moment + gradient,  # first moment
            2 * moment,  # second moment times its share,
            2 * moment + gradient,  # and the gradient's square added
            2 * moment,  # its root,
            2 * moment,  # without bias,
            2 * moment,  # not zero
            2 * parameter + 2 * moment,  # parameter
        ]
    else:
        momentum = MOMENT_BYTES[training.optimizer]
        kernels = [2 * gradient + parameter, 2 * parameter + gradient]  # weight decay; parameter
        kernels += [2 * momentum, 2 * momentum + gradient] if momentum else []
    return _CLIPPED + sum(kernels)
