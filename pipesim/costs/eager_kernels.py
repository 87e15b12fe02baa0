"""Memory-bound kernels of a layer run op by op, as PyTorch does without `torch.compile` or fused kernels.

Bytes per element, ``e`` those of the stored precision, 4 of fp32, one kernel per line of the lists below. Layer norm
is one kernel in PyTorch; RMS norm is not (pytorch/pytorch:aten/src/ATen/native/layer_norm.cpp, `rms_norm` until
2025), unless a model brings its own (`fused_norms`). Rotations are those of Llama's own code, over complex numbers in
fp32 (pytorch/torchtitan:torchtitan/models).
"""

from __future__ import annotations

from pipesim.costs.elementwise import Traffic, kernel
from pipesim.costs.kernels import Kernels
from pipesim.workload.eager import norm_by_operations


class EagerKernels(Kernels):
    """Kernels of one layer of a model on one GPU, none of them fused."""

    @property
    def _one_kernel(self) -> bool:
        """Whether a norm is."""
        return not norm_by_operations(self.model, self.training)

    def _norm(self, elements: float) -> Traffic:
        if self._one_kernel:
            return super()._norm(elements)
        e = self.element
        return _each(
            elements,
            e + 4,  # to fp32
            4 + 4,  # square
            4,  # mean of a row
            4 + 4,  # times its inverse root
            4 + e,  # back
            2 * e,  # times the gain
        )

    def _norm_backward(self, elements: float) -> Traffic:
        if self._one_kernel:
            return super()._norm_backward(elements)
        e = self.element
        return _each(
            elements,
            2 * e,  # gradient times the gain
            3 * e,  # gradient times what the gain multiplied
            e,  # summed over tokens: the gain's gradient
            e + 4,  # to fp32
            4 + 4,  # times the inverse root
            3 * 4,  # times the input
            4,  # summed over a row: the inverse root's gradient
            4,  # spread over the row: the mean's gradient
            4 + 4,  # square's gradient: the input,
            4 + 4,  # twice it,
            3 * 4,  # times the gradient
            3 * 4,  # both ways into the input added
            4 + e,  # back
        )

    def residual(self) -> Traffic:
        """Dropout; the sum with the residual stream."""
        return self._dropout() + kernel(3 * self.element * self.whole)

    def rotation(self) -> Traffic:
        """To fp32; times the angles; back."""
        return _each(self.qkv_elements(), self.element + 4, 4 + 4, 4 + self.element)

    def _activation(self, elements: float, backward: bool) -> Traffic:
        e = self.element
        if self.model.gelu_formula:
            return self._formula_backward(elements) if backward else self._formula(elements)
        if not self.model.gated_mlp:
            return super()._activation(elements, backward)
        forward = _each(elements, 2 * e, 3 * e)  # SiLU; times the other half
        return _each(elements, 3 * e, 3 * e, 3 * e) if backward else forward

    def _formula(self, elements: float) -> Traffic:
        """Half of x times (1 + tanh(a (x + b x^3)))."""
        e = self.element
        return _each(
            elements,
            2 * e,  # half of x
            2 * e,  # third power
            2 * e,  # times b
            3 * e,  # and x
            2 * e,  # times a
            2 * e,  # tanh
            2 * e,  # and 1
            3 * e,  # both factors
        )

    def _formula_backward(self, elements: float) -> Traffic:
        e = self.element
        return _each(
            elements,
            3 * e,  # first factor's gradient
            3 * e,  # second factor's gradient
            3 * e,  # through tanh
            2 * e,  # times a
            2 * e,  # times b
            2 * e,  # square of x
            2 * e,  # three times it
            3 * e,  # times the gradient
            2 * e,  # half of the first factor's
            3 * e,  # three ways into x,
            3 * e,  # added
        )


def _each(elements: float, *per_element: float) -> Traffic:
    """One kernel for each number of bytes per element."""
    return sum((kernel(elements * size) for size in per_element), Traffic())
