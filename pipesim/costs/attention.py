"""Seconds of the core of attention (scores, softmax, context) of one layer on one GPU.

With FlashAttention: rates from `catalog/attention.yaml`, interpolated in the logarithm of the sequence,
plus a tail when few heads leave the chip half empty. Without it: batched matrix products through the GEMM
roofline and softmax and dropout as memory-bound kernels over the scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from pipesim import catalog
from pipesim.costs.elementwise import Traffic, elementwise_seconds, kernel
from pipesim.costs.gemm import gemm_seconds
from pipesim.hardware import GPU
from pipesim.workload.model import aligned

BACKWARD_FLOPS = 2.5

_NEWEST = 3
"""FlashAttention's version of tables that do not say: the best kernels of their GPUs."""

# A kernel ends when its last thread block ends. The block with the most work takes `longest` seconds; a
# launch takes about TAIL of that beyond the even spread of its work, and never less than LONGEST of it,
# forward and backward. Read off attention times at s = 4096 and few heads
# (MooreThreads/SimuMax:configs/system): on A100 214, 284, 444, 778, 1484 us forward for 4 to 64 heads, and
# on B200 91 us for 4 heads and 98 for 8.
TAIL = (0.65, 0.45)
LONGEST = (1.4, 0.95)
_BACKWARD_ROWS = 128


@dataclass(frozen=True)
class Core:
    """The work of one layer's attention core on one GPU.

    ``batch`` sequences of ``sequence`` tokens, ``heads`` on this GPU, ``query_key`` and ``value`` dimensions per
    head. ``sequence x share`` queries attend to ``sequence`` keys (a block of context parallelism). ``version`` of
    FlashAttention: the GPU's table for it, or the one it has.
    """

    batch: float
    sequence: float
    heads: float
    query_key: int
    value: int
    causal: bool
    share: float = 1.0
    dropout: bool = False
    version: int = 3

    @property
    def flops(self) -> float:
        """Forward operations, halved when causal."""
        square = 2 * self.batch * self.sequence**2 * self.heads * (self.query_key + self.value)
        return square * self.share * (0.5 if self.causal else 1.0)


def flash_seconds(core: Core, gpu: GPU, backward: bool = False) -> float:
    """Time of one FlashAttention kernel, forward or backward."""
    table = _family(gpu, core.version)
    block = core.sequence * core.share
    rate = _rate(table, core, block, backward) * _half_peak(gpu) / table["peak"]
    flops = core.flops * (BACKWARD_FLOPS if backward else 1.0)
    longest = _longest_block(table, core, rate / gpu.sms, backward)
    reference = table["reference"]
    full = reference["tokens"] * reference["hidden"] * block * (1.0 if core.causal else 2.0) * 2
    emptiness = max(0.0, 1.0 - core.flops / full)
    spread = flops / rate + TAIL[backward] * emptiness * longest
    return float(gpu.elementwise_overhead_s + max(spread, LONGEST[backward] * longest))


def _longest_block(table: Any, core: Core, rate_per_sm: float, backward: bool) -> float:
    """Seconds of the thread block with the most work: its rows against all keys."""
    rows = _BACKWARD_ROWS if backward else table["block_rows"]
    flops = 2 * rows * core.sequence * (core.query_key + core.value) * (BACKWARD_FLOPS if backward else 1.0)
    return float(flops / rate_per_sm)


def _rate(table: Any, core: Core, sequence: float, backward: bool) -> float:
    """FLOP/s of the family's reference GPU: log-linear in the sequence, linear in the head dimension."""
    direction = "backward" if backward else "forward"
    by_dimension, slower = table[direction], float(table.get("slower", {}).get(direction, 1.0))
    latent = f"{core.query_key}/{core.value}"
    if latent in by_dimension:
        return _at_length(table, by_dimension[latent], sequence, core.causal) / slower
    dimension = (core.query_key + core.value) / 2
    known = sorted(key for key in by_dimension if isinstance(key, int))
    rates = [_at_length(table, by_dimension[key], sequence, core.causal) for key in known]
    return float(np.interp(dimension, known, rates)) / slower


def _at_length(table: Any, curves: Any, sequence: float, causal: bool) -> float:
    rates = curves.get("causal" if causal else "full") or curves["causal"]
    logarithms = [math.log(length) for length in table["sequences"]]
    return float(np.interp(math.log(sequence), logarithms, rates)) * 1e12


@lru_cache(maxsize=1)
def _tables() -> dict[str, Any]:
    tables = catalog.load("attention")
    return {name: {**tables[entry["like"]], **entry} if "like" in entry else entry for name, entry in tables.items()}


def _family(gpu: GPU, version: int) -> Any:
    """The table that lists the GPU, or the one whose peak is nearest; of several the one for the version."""
    tables = _tables().values()
    nearest = min(abs(math.log(_half_peak(gpu) / table["peak"])) for table in tables)
    listed = [table for table in tables if gpu.base in table["gpus"]]
    near = [table for table in tables if abs(math.log(_half_peak(gpu) / table["peak"])) == nearest]
    return min(listed or near, key=lambda table: table.get("version", _NEWEST) != version)


def _half_peak(gpu: GPU) -> float:
    peaks = gpu.peak_flops
    return float(peaks.get("bf16") or peaks.get("fp16") or peaks["fp32"])


def unfused_seconds(core: Core, gpu: GPU, precision: str, backward: bool = False) -> float:
    """Time of attention with the scores in memory: two batched products and their kernels, or twice as many.

    Products do the full square, causal or not.
    """
    rows = core.sequence * core.share
    products = core.batch * core.heads
    scores = _batched_seconds(products, rows, core.sequence, core.query_key, gpu, precision)
    once = scores + _batched_seconds(products, rows, core.value, core.sequence, gpu, precision)
    element = 4 if precision == "fp32" else 2
    traffic = score_traffic(core, element, backward)
    return once * (2 if backward else 1) + elementwise_seconds(traffic, gpu)


def _batched_seconds(count: float, m: float, n: float, k: float, gpu: GPU, precision: str) -> float:
    """Time of one kernel of ``count`` products.

    Rows that do not begin at multiples of 16 bytes keep them off the tensor cores, at the rate of fp32 (NVIDIA, Matrix
    Multiplication Background User's Guide, section "Tensor Core requirements"). Models whose heads are 108 and 150 wide
    lose more than that (bigscience-workshop/bigscience train/tr11-176B-ml/chronicles-prequel.md).
    """
    start = gpu.gemm[precision].overhead_s
    seconds = count * (float(gemm_seconds(m, n, k, gpu, precision)) - start)
    if not aligned(n, k):
        in_fp32 = float(gemm_seconds(m, n, k, gpu, "fp32")) - gpu.gemm["fp32"].overhead_s
        seconds = max(seconds, count * in_fp32)
    return start + seconds


def score_traffic(core: Core, element: int, backward: bool = False) -> Traffic:
    """Softmax (masked and scaled in one kernel) and dropout over b a s^2 scores.

    A causal softmax reads half of the scores and writes all (NVIDIA/Megatron-LM:megatron/fused_kernels).
    Dropout writes, and its backward reads, one mask byte per score.
    """
    scores = core.batch * core.heads * core.sequence**2 * core.share
    read = 0.5 if core.causal else 1.0
    tensors = 2 if backward else 1
    softmax = kernel(scores * element * (read * tensors + 1))
    dropout = kernel(scores * (2 * element + 1)) if core.dropout else Traffic()
    return softmax + dropout


def core_seconds(core: Core, gpu: GPU, precision: str, flash: bool, backward: bool = False) -> float:
    """Time of the attention core, whichever way it is computed. fp8 models keep attention in bf16."""
    if flash and precision != "fp32":
        return flash_seconds(core, gpu, backward)
    return unfused_seconds(core, gpu, "bf16" if precision == "fp8" else precision, backward)
