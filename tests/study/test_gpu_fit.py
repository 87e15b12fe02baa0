"""Constants that made up some times are found in them."""

from __future__ import annotations

import pytest

from pipesim.costs.elementwise import Traffic, elementwise_seconds
from pipesim.costs.gemm import gemm_seconds, moved_bytes
from pipesim.hardware.gpu import build_gpu
from pipesim.study.gpu_fit import MeasuredProduct, fit_elementwise, fit_gpu, fit_products, fit_slowdown

A100 = build_gpu("a100-sxm-80gb")
SHAPES = [(m, n, k) for m in (8, 64, 512, 4096) for n, k in ((4096, 4096), (16384, 4096), (4096, 1024))]
TRAFFIC = [Traffic(1, size) for size in (1e6, 3e6, 1e8)]


def products(gpu, role="forward"):
    """What products take on a GPU by the cost model; weight gradients do not add to what was there before."""
    result = 2 if role == "weight_grad" else None
    return [
        MeasuredProduct(
            2 * m * n * k,
            float(moved_bytes(m, n, k, "bf16", role, result)),
            float(gemm_seconds(m, n, k, gpu, "bf16", role, 1, result)),
        )
        for m, n, k in SHAPES
    ]


def measured(gpu):
    kernels = [(traffic, elementwise_seconds(traffic, gpu)) for traffic in TRAFFIC]
    return fit_gpu(A100, "bf16", products(gpu), products(gpu, "weight_grad"), kernels)


def test_a_gpu_is_found_in_its_times():
    """The fields that a GPU was made with, in the four digits that are written."""
    fields = {
        "base": "a100-sxm-80gb",
        "gemm": {"bf16": {"efficiency": 0.61, "memory_efficiency": 0.37, "overhead": "9.5 us"}},
        "elementwise": {"efficiency": 0.44, "overhead": "7 us"},
        "weight_grad": {"slowdown": 1.31},
    }
    found = measured(build_gpu(fields))
    assert (found.fields, found.clipped) == (fields, [])


def test_a_device_faster_than_the_peak_is_set_to_it_and_named():
    """An A100 given inline cannot be as fast as a B200: shares of its peaks are at most 1."""
    found = measured(build_gpu("b200-sxm-180gb"))
    assert build_gpu(found.fields).gemm["bf16"].efficiency == 1.0
    assert found.clipped == ["gemm efficiency", "gemm memory_efficiency", "elementwise efficiency"]


def test_products_are_told_apart_by_what_bounds_them():
    """3 s for each operation, 5 for each byte, 7 to start, exactly up to rounding."""
    pairs = [(1, 1), (2, 1), (4, 1), (1, 2), (1, 5), (3, 2)]
    fit = fit_products([MeasuredProduct(f, b, 7 + max(3 * f, 5 * b)) for f, b in pairs])
    assert (fit.per_flop_s, fit.per_byte_s, fit.start_s) == pytest.approx((3, 5, 7), rel=1e-9)
    assert fit.error == pytest.approx(0, abs=1e-12)


def test_what_nothing_depends_on_is_not_fitted():
    """Products that computing bounds say nothing about memory, and the fields leave the GPU's own value."""
    some = [MeasuredProduct(f, 1.0, 1e-3 + f * 1e-12) for f in (1e9, 2e9, 3e9)]
    fit = fit_products(some)
    assert fit.per_byte_s is None
    assert "memory_efficiency" not in fit_gpu(A100, "bf16", some, [], [(TRAFFIC[0], 1e-3)]).fields["gemm"]["bf16"]
    assert fit_slowdown([MeasuredProduct(0.0, 1.0, 1.0)], fit) is None


def test_no_constant_is_negative():
    """Kernels that get faster per launch the larger they are do not start before they are launched."""
    per_byte, start = fit_elementwise([(Traffic(1, 1.0), 1.0), (Traffic(1, 2.0), 3.0)])
    assert start == 0.0
    assert per_byte > 0
