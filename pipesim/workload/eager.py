"""What autograd keeps besides where kernels are not fused (`Training.fused_kernels`): results between operations.

Fused kernels, and those that `torch.compile` makes, compute such results again. Each count follows from the operations
of PyTorch's derivatives.yaml: a product keeps both factors, a power its base, tanh its result; sums keep nothing.
"""

from __future__ import annotations

from pipesim.workload.model import Model
from pipesim.workload.training import Training

_FP32 = 4

_OF_A_GATE = 1
"""SiLU's result, which is multiplied by the other half."""

_OF_A_FORMULA = 3
"""Half of the input, tanh, and one more than it: the factors of GeLU (`Model.gelu_formula`) and tanh's own result."""


def norm_by_operations(model: Model, training: Training) -> bool:
    """Whether a norm is a list of operations: layer norm is one kernel in PyTorch, RMS norm unless a model brings its
    own.
    """
    return not training.fused_kernels and not training.fused_norms and model.norm == "rms"


def norm_bytes(model: Model, training: Training) -> int:
    """Bytes per element of a norm's input: itself in fp32, beside the normalised one in its own precision, which takes
    the place of the input that a kernel keeps.
    """
    return _FP32 if norm_by_operations(model, training) else 0


def activation_widths(model: Model, training: Training) -> int:
    """Arrays as wide as the feed-forward block, in the weights' precision, beside what an activation function of one
    kernel keeps.
    """
    if training.fused_kernels:
        return 0
    if model.gated_mlp:
        return _OF_A_GATE
    return _OF_A_FORMULA if model.gelu_formula else 0
