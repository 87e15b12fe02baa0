"""Constants of a GPU's kernels from measured ones, by least squares of relative errors.

The models are those that prices come from: of a matrix product, t0 + max(FLOP / (e x peak), bytes / (b x bandwidth)),
of memory-bound kernels, launches x t0 + bytes / (e x bandwidth).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.elementwise import Traffic
from pipesim.hardware import GPU

Array = NDArray[np.float64]

_MOST_SLOWDOWN = 10.0  # what a GPU's field allows


@dataclass(frozen=True)
class MeasuredProduct:
    """A matrix product: its operations, the bytes that it moves at least, and what it took."""

    flops: float
    moved_bytes: float
    seconds: float


@dataclass(frozen=True)
class ProductFit:
    """Seconds per operation and per byte, and seconds of a start; None for what no product depends on.

    ``error``: mean absolute relative error on what was fitted.
    """

    per_flop_s: float | None
    per_byte_s: float | None
    start_s: float
    error: float

    def seconds(self, flops: Array, moved_bytes: Array) -> Array:
        """What products take."""
        compute, memory = flops * (self.per_flop_s or 0.0), moved_bytes * (self.per_byte_s or 0.0)
        return self.start_s + np.maximum(compute, memory)


def fit_products(products: Sequence[MeasuredProduct]) -> ProductFit:
    """Constants with the least squared relative error on some products.

    Which term of the maximum is the larger depends on a product's operations per byte alone. Every place where the
    products can be told apart by it is tried; the rest is linear least squares with constants that are not negative.
    """
    ordered = sorted(products, key=lambda each: each.flops / each.moved_bytes)
    flops, moved, seconds = (
        np.array([getattr(each, name) for each in ordered]) for name in ("flops", "moved_bytes", "seconds")
    )
    return min((_split(flops, moved, seconds, bound) for bound in range(len(ordered) + 1)), key=lambda found: found[0])[
        1
    ]


def _split(flops: Array, moved: Array, seconds: Array, bound: int) -> tuple[float, ProductFit]:
    """The fit with the first ``bound`` products bound by memory, and its squared error."""
    by_memory = np.arange(len(flops)) < bound
    columns = np.stack([np.where(by_memory, 0.0, flops), np.where(by_memory, moved, 0.0), np.ones(len(flops))])
    per_flop, per_byte, start = least_squares(columns, seconds)
    fit = ProductFit(per_flop or None, per_byte or None, start, 0.0)
    errors = fit.seconds(flops, moved) / seconds - 1
    return float(errors @ errors), ProductFit(fit.per_flop_s, fit.per_byte_s, start, float(np.abs(errors).mean()))


def fit_slowdown(products: Sequence[MeasuredProduct], fit: ProductFit) -> float | None:
    """How much longer than ``fit`` says the operations of other products take; None where none is bound by them."""
    bound = [
        each
        for each in products
        if each.flops * (fit.per_flop_s or 0.0) > each.moved_bytes * (fit.per_byte_s or 0.0)
        and each.seconds > fit.start_s
    ]
    if not bound:
        return None
    expected = np.array([each.flops * (fit.per_flop_s or 0.0) for each in bound])
    seconds = np.array([each.seconds for each in bound])
    share = expected / seconds
    return float(share @ (1 - fit.start_s / seconds) / (share @ share))


def fit_elementwise(kernels: Sequence[tuple[Traffic, float]]) -> tuple[float, float]:
    """Seconds per byte and per launch from memory-bound kernels and their seconds."""
    columns = np.array([[traffic.moved_bytes, float(traffic.kernels)] for traffic, _ in kernels]).T
    per_byte, start = least_squares(columns, np.array([seconds for _, seconds in kernels]))
    return per_byte, start


def least_squares(columns: Array, seconds: Array) -> tuple[float, ...]:
    """Factors of the rows of ``columns`` (c, n), none negative, whose sum is closest to ``seconds`` (n,) in relative
    terms. All sets of factors that may be zero are tried; there are few columns.
    """
    scale = columns.max(axis=1)
    weighted = (columns / np.where(scale > 0, scale, 1.0)[:, None] / seconds).T
    used = [index for index in range(len(columns)) if scale[index] > 0]
    best, least = np.zeros(len(columns)), np.inf
    for count in range(1, len(used) + 1):
        for chosen in combinations(used, count):
            some = list(chosen)
            found = np.linalg.lstsq(weighted[:, some], np.ones(len(seconds)), rcond=None)[0]
            error = float(((weighted[:, some] @ found - 1) ** 2).sum())
            if (found >= 0).all() and error < least:
                best, least = np.zeros(len(columns)), error
                best[some] = found
    return tuple((best / np.where(scale > 0, scale, 1.0)).tolist())


@dataclass(frozen=True)
class GpuFit:
    """Constants of a device's kernels, as fields of a GPU given inline. ``clipped`` ones are above what the catalog
    entry has for its peak.
    """

    fields: Mapping[str, Any]
    products: ProductFit
    clipped: Sequence[str]


def fit_gpu(
    gpu: GPU,
    precision: str,
    products: Sequence[MeasuredProduct],
    weight_grads: Sequence[MeasuredProduct],
    kernels: Sequence[tuple[Traffic, float]],
) -> GpuFit:
    """What to change in ``gpu`` so that its kernels take what was measured: forward and input-gradient ``products``,
    ``weight_grads``, and memory-bound ``kernels``. What nothing depends on is left as it is.
    """
    fit, (per_byte, start) = fit_products(products), fit_elementwise(kernels)
    slowdown = fit_slowdown(weight_grads, fit)
    shares = {
        "gemm efficiency": _share(fit.per_flop_s, gpu.peak_flops[precision]),
        "gemm memory_efficiency": _share(fit.per_byte_s, gpu.memory_bandwidth),
        "elementwise efficiency": _share(per_byte, gpu.memory_bandwidth),
    }
    known = {name: min(share, 1.0) for name, share in shares.items() if share is not None}
    found: dict[str, dict[str, Any]] = {"gemm": {}, "elementwise": {}}
    for name, share in known.items():
        section, _, key = name.partition(" ")
        found[section][key] = share
    found["gemm"]["overhead"], found["elementwise"]["overhead"] = _microseconds(fit.start_s), _microseconds(start)
    fields: dict[str, Any] = {"base": gpu.base, "gemm": {precision: found["gemm"]}, "elementwise": found["elementwise"]}
    if slowdown:
        fields["weight_grad"] = {"slowdown": min(_rounded(slowdown), _MOST_SLOWDOWN)}
    return GpuFit(fields, fit, [name for name, share in shares.items() if share is not None and share > 1])


def _share(seconds: float | None, peak: float) -> float | None:
    """The share of a peak rate that so many seconds for each unit are."""
    return _rounded(1 / seconds / peak) if seconds else None


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _microseconds(seconds: float) -> str:
    return f"{_rounded(seconds * 1e6):g} us"
