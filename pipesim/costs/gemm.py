"""Seconds of a matrix product: a roofline with a start-up time, and measured tables where that fits badly.

t = t0 + max(FLOP / (e x peak), bytes / (b x HBM)), with (e, b, t0) per GPU and precision from the catalog. On
shapes between 1024 and 32768 this is within 4-8 % of measured products in bf16 (ai-dynamo/aiconfigurator's
tables), but 10-14 % in fp8, whose products come with casting their inputs. There measured rates are interpolated
(catalog/gemm.yaml), casts included: 3 % on sizes left out on H100, 6 % on B200.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from pipesim.costs.gemm_tables import Deviations, Sizes, grouped, measured
from pipesim.hardware import GPU, build_gpu

Role = Literal["forward", "input_grad", "weight_grad"]

_ELEMENT: Final = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 1}
_ACCUMULATED: Final = 8  # a weight gradient is added to in fp32: read and written
# Kernels that cast one tensor to fp8 with its current scale: its maximum, its scale, the cast
# (NVIDIA/TransformerEngine transformer_engine/pytorch/csrc/quantizer.cpp).
_CAST_KERNELS: Final = 3


def gemm_seconds(
    m: npt.ArrayLike,
    n: npt.ArrayLike,
    k: npt.ArrayLike,
    gpu: GPU,
    precision: str,
    role: Role = "forward",
    groups: int = 1,
    result_bytes: int | None = None,
) -> Sizes:
    """Time of an (m x k) by (k x n) product; any of m, n, k may be an array.

    ``role`` ``weight_grad`` is slower by the GPU's factor and adds to an fp32 result; ``result_bytes``
    moved per element of the result are 2 otherwise (4 in fp32), and can be given. With ``groups`` > 1 that
    many products of this shape run as one kernel, the slower the fewer rows each has (catalog/gemm.yaml); their
    inputs are still cast to fp8 one after the other.
    """
    m, n, k = (np.asarray(size, dtype=np.float64) for size in (m, n, k))
    deviations = _deviations(gpu.base, precision)
    ratio = deviations(m, n, k) if deviations is not None else 1.0
    seconds = ratio * roofline_seconds(m, n, k, gpu, precision, role, groups, result_bytes)
    return np.asarray(seconds + _more_casts_seconds(gpu, precision, role, groups))


def _more_casts_seconds(gpu: GPU, precision: str, role: Role, groups: int) -> float:
    """Starting the casts of all groups but one, whose casts are in what was measured of a single product.

    Only delayed scaling has a kernel for all groups; with current scales, per block or per tensor, every expert's
    tokens are cast on their own, once in either direction: the weight gradient takes what the other two have cast
    (NVIDIA/TransformerEngine transformer_engine/pytorch/csrc/extensions/cast.cpp, `multi_tensor_quantize_impl`).
    """
    if precision != "fp8" or role == "weight_grad":
        return 0.0
    return (groups - 1) * _CAST_KERNELS * gpu.elementwise_overhead_s


@lru_cache(maxsize=1 << 16)
def product_seconds(
    m: float,
    n: float,
    k: float,
    gpu: GPU,
    precision: str,
    role: Role = "forward",
    groups: int = 1,
    result_bytes: int | None = None,
) -> float:
    """`gemm_seconds` of one product, remembered: searches price the same products again and again."""
    return float(gemm_seconds(m, n, k, gpu, precision, role, groups, result_bytes))


def roofline_seconds(
    m: Sizes,
    n: Sizes,
    k: Sizes,
    gpu: GPU,
    precision: str,
    role: Role = "forward",
    groups: int = 1,
    result_bytes: int | None = None,
) -> Sizes:
    """The same by the GPU's fit alone, without measured tables."""
    fit = gpu.gemm[precision]
    rate = fit.efficiency * gpu.peak_flops[precision]
    if role == "weight_grad":
        rate /= gpu.weight_grad_slowdown
    operations = 2 * m * n * k
    if groups > 1:
        many = grouped(gpu.base, role)
        rows = k if role == "weight_grad" else m
        operations = 2 * m * n * k * (1 + many.rows / np.maximum(rows, 1.0)) / many.rate
    moved = moved_bytes(m, n, k, precision, role, result_bytes)
    memory_s = moved / (fit.memory_efficiency * gpu.memory_bandwidth)
    return np.asarray(fit.overhead_s + groups * np.maximum(operations / rate, memory_s))


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


@cache
def _deviations(base: str, precision: str) -> Deviations | None:
    found = measured(base, precision)
    if found is None:
        return None
    gpu = build_gpu(found[0])
    return Deviations(found[1], lambda m, n, k: roofline_seconds(m, n, k, gpu, precision))
