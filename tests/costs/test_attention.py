"""Attention costs what its table says where the table was measured, and scales with what it must scale
with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipesim import catalog
from pipesim.costs.attention import (
    BACKWARD_FLOPS,
    Core,
    core_seconds,
    flash_seconds,
    score_traffic,
    unfused_seconds,
)
from pipesim.costs.elementwise import elementwise_seconds
from pipesim.hardware import build_gpu

A100 = build_gpu("a100-sxm-80gb")
H100 = build_gpu("h100-sxm-80gb")
CORE = Core(batch=8, sequence=2048, heads=16, query_key=128, value=128, causal=True)


def _rate(core, gpu, backward=False):
    flops = core.flops * (BACKWARD_FLOPS if backward else 1.0)
    return flops / flash_seconds(core, gpu, backward) / 1e12


# TFLOP/s at 16k tokens and hidden 2048: arXiv 2307.08691 Figures 5 and 6, arXiv 2407.08608 Figures 5 and 6.
# 3 %: a kernel of 0.1 to 0.3 ms also pays its launch of 3-4 us here.
PUBLISHED = [
    (A100, 512, 128, True, False, 132),
    (A100, 4096, 128, True, False, 198),
    (A100, 8192, 64, False, False, 192),
    (A100, 2048, 128, True, True, 145),
    (H100, 2048, 128, True, False, 521),
    (H100, 16384, 128, False, True, 561),
]


@pytest.mark.parametrize(("gpu", "sequence", "dimension", "causal", "backward", "tera"), PUBLISHED)
def test_rates_are_the_published_ones(gpu, sequence, dimension, causal, backward, tera):
    core = Core(16384 / sequence, sequence, 2048 / dimension, dimension, dimension, causal)
    assert _rate(core, gpu, backward) == pytest.approx(tera, rel=0.03)


# Microseconds forward and backward by heads at s = 4096, b = 1, causal, d = 128 on A100 PCIe
# (MooreThreads/SimuMax:configs/system/a100_pcie.json). 12 %: the table behind them is of the SXM board.
FEW_HEADS = [(4, 214, 409), (8, 283, 722), (16, 445, 1245), (32, 778, 2256), (64, 1484, 4382)]


@pytest.mark.parametrize(("heads", "forward_us", "backward_us"), FEW_HEADS)
def test_few_heads_leave_the_chip_half_empty(heads, forward_us, backward_us):
    core = Core(1, 4096, heads, 128, 128, True)
    pcie = build_gpu("a100-pcie-80gb")
    assert flash_seconds(core, pcie) * 1e6 == pytest.approx(forward_us, rel=0.12)
    assert flash_seconds(core, pcie, backward=True) * 1e6 == pytest.approx(backward_us, rel=0.12)


def test_lengths_between_measured_ones_are_interpolated_in_their_logarithm():
    rates = [_rate(replace(CORE, batch=16384 / s, sequence=s), A100) for s in (1024, 1448.15, 2048)]
    # sqrt(1024 x 2048) lies half-way; 1 %: launch and tail vary a little between the three.
    assert rates[1] == pytest.approx((rates[0] + rates[2]) / 2, rel=0.01)


def test_causal_halves_the_operations():
    assert CORE.flops * 2 == replace(CORE, causal=False).flops


def test_context_parallelism_divides_the_operations():
    assert replace(CORE, share=0.25).flops * 4 == CORE.flops


def test_an_inline_gpu_uses_its_base_table():
    inline = build_gpu({"base": "a100-sxm-80gb", "name": "mine", "memory": "64 GB"})
    assert flash_seconds(CORE, inline) == flash_seconds(CORE, A100)


def test_a_gpu_without_a_table_scales_the_nearest_by_peak():
    v100 = build_gpu("v100-sxm2-32gb")
    assert _rate(CORE, v100) == pytest.approx(_rate(CORE, A100) * 125 / 312, rel=0.02)  # launch and tail differ


def test_unfused_attention_moves_every_score_through_memory():
    """Causal softmax: half read, all written; dropout: read, written, one mask byte. Backward: two
    tensors."""
    core = replace(CORE, dropout=True)
    scores = 8 * 16 * 2048**2
    assert score_traffic(core, 2).moved_bytes == scores * (1 + 2 + 5)
    assert score_traffic(core, 2, backward=True).moved_bytes == scores * (2 + 2 + 5)
    assert score_traffic(replace(core, causal=False, dropout=False), 2).moved_bytes == scores * 4


@pytest.mark.parametrize("width", [108, 150])
def test_heads_off_16_bytes_leave_the_tensor_cores(width):
    core = replace(CORE, query_key=width, value=width)

    def products(precision: str) -> float:
        """Seconds without softmax and the start of the two kernels."""
        rest = elementwise_seconds(score_traffic(core, 4 if precision == "fp32" else 2), A100)
        return unfused_seconds(core, A100, precision) - rest - 2 * A100.gemm[precision].overhead_s

    assert products("bf16") == pytest.approx(products("fp32"), rel=1e-9)
    even = replace(core, query_key=152, value=152)
    assert unfused_seconds(core, A100, "bf16") > 2 * unfused_seconds(even, A100, "bf16")


def test_alignment_matters_neither_to_fp32_nor_to_flash_attention():
    even, odd = (replace(CORE, query_key=w, value=w) for w in (152, 150))
    for precision, flash in (("fp32", False), ("bf16", True)):
        wide, narrow = (core_seconds(core, A100, precision, flash) for core in (even, odd))
        assert narrow == pytest.approx(wide, rel=0.02)


def test_unfused_attention_is_many_times_slower_than_flash_attention():
    """PyTorch's unfused forward reaches 15-19 TFLOP/s on A100 (arXiv 2307.08691, Figure 5) against 187; fused
    softmax kernels as in Megatron-LM do better, but stay bound by memory.
    """
    assert unfused_seconds(CORE, A100, "bf16") > 3 * flash_seconds(CORE, A100)


def test_fp32_attention_is_never_flash_attention():
    assert core_seconds(CORE, A100, "fp32", flash=True) == unfused_seconds(CORE, A100, "fp32")


def test_fp8_models_keep_attention_in_bf16():
    assert core_seconds(CORE, H100, "fp8", flash=False) == unfused_seconds(CORE, H100, "bf16")


def test_every_table_is_complete_and_names_its_source():
    for table in catalog.load("attention").values():
        assert table["source"]
        if "like" in table:
            continue
        for curves in (table["forward"], table["backward"]):
            for rates in curves.values():
                assert all(len(curve) == len(table["sequences"]) for curve in rates.values())
        assert table["forward"].keys() >= table["backward"].keys()


def test_flash_attention_2_on_hopper_takes_what_its_paper_measured():
    """Forward and backward together, causal, head dimension 128: 265 TFLOP/s at 2048 (arXiv 2307.08691 Figure 7)."""
    core = replace(CORE, version=2)
    both = core.flops * (1 + BACKWARD_FLOPS) / (flash_seconds(core, H100) + flash_seconds(core, H100, True)) / 1e12
    assert both == pytest.approx(265, rel=0.03)


def test_gpus_with_one_table_use_it_for_any_version():
    assert flash_seconds(replace(CORE, version=2), A100) == flash_seconds(CORE, A100)


@pytest.mark.parametrize("gpu", [A100, H100], ids=["a100", "h100"])
def test_flash_attention_1_is_slower_than_2_by_what_the_paper_of_2_says(gpu):
    """1.3 to 1.5 times forward and about 2 times backward (arXiv 2307.08691, section 4.1)."""
    old, new = replace(CORE, version=1), replace(CORE, version=2)
    start = gpu.elementwise_overhead_s
    forward, backward = (
        (flash_seconds(old, gpu, way) - start) / (flash_seconds(new, gpu, way) - start) for way in (False, True)
    )
    assert (forward, backward) == (pytest.approx(1.4, rel=1e-9), pytest.approx(2.0, rel=1e-9))
