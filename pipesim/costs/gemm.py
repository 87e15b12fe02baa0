"""Seconds of a matrix product: a roofline with a start-up time.

t = t0 + max(FLOP / (e x peak), bytes / (b x HBM)), with (e, b, t0) per GPU and precision from the catalog. On
shapes between 1024 and 32768 this is within 4-8 % of measured products in bf16 (ai-dynamo/aiconfigurator's
tables), and 15-21 % in fp8.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from pipesim.hardware import GPU

Role = Literal["forward", "input_grad", "weight_grad"]

# Rate of the grouped products of routed experts relative to one dense product: A100 0.653/0.740, 0.669/0.741
# and 0.562/0.704 of peak at 600-1200 rows per expert (MooreThreads/SimuMax:configs/system/a100_pcie.json).
GROUPED: Final = {"forward": 0.88, "input_grad": 0.90, "weight_grad": 0.80}

_ELEMENT: Final = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 1}
_ACCUMULATED: Final = 8  # a weight gradient is added to in fp32: read and written


def gemm_seconds(
    m: npt.ArrayLike,
    n: npt.ArrayLike,
    k: npt.ArrayLike,
    gpu: GPU,
    precision: str,
    role: Role = "forward",
    groups: int = 1,
    result_bytes: int | None = None,
) -> npt.NDArray[np.float64]:
    """Time of an (m x k) by (k x n) product; any of m, n, k may be an array.

    ``role`` ``weight_grad`` is slower by the GPU's factor and adds to an fp32 result; ``result_bytes``
    moved per element of the result are 2 otherwise (4 in fp32), and can be given. With ``groups`` > 1 that
    many products of this shape run as one kernel, at the lower rate of `GROUPED`.
    """
    fit = gpu.gemm[precision]
    m, n, k = (np.asarray(size, dtype=np.float64) for size in (m, n, k))
    rate = fit.efficiency * gpu.peak_flops[precision] * (GROUPED[role] if groups > 1 else 1.0)
    if role == "weight_grad":
        rate /= gpu.weight_grad_slowdown
    compute_s = 2 * m * n * k / rate
    moved = moved_bytes(m, n, k, precision, role, result_bytes)
    memory_s = moved / (fit.memory_efficiency * gpu.memory_bandwidth)
    return np.asarray(fit.overhead_s + groups * np.maximum(compute_s, memory_s))


def moved_bytes(
    m: npt.ArrayLike,
    n: npt.ArrayLike,
    k: npt.ArrayLike,
    precision: str,
    role: Role = "forward",
    result_bytes: int | None = None,
) -> npt.NDArray[np.float64]:
    """Bytes that one product reads and writes at least; arguments as in `gemm_seconds`."""
    m, n, k = (np.asarray(size, dtype=np.float64) for size in (m, n, k))
    element = _ELEMENT[precision]
    result = result_bytes or (_ACCUMULATED if role == "weight_grad" else max(element, 2))
    return np.asarray(element * (m * k + k * n) + result * m * n)
