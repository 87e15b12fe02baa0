"""Seconds of memory-bound kernels: norms, activations, dropout, residuals, casts.

A kernel takes its launch overhead plus its bytes over the share of HBM bandwidth that such kernels reach.
Byte counts are those of kernels fused as in Megatron-LM (bias + dropout + residual in one, bias + GeLU in
one); Narayanan et al. 2021 (arXiv 2104.04473), section 5.8, measured what that fusion is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipesim.hardware import GPU

# Random access by rows (embedding look-up, token permutation) against streaming: 305 of 1795 GB/s on A100
# and 550 of 3400 on H100 for a look-up (microsoft/vidur profiles), 0.19 against 0.91 of HBM on A100 and
# 0.50 against 0.67 on B200 for a permutation (MooreThreads/SimuMax:configs/system).
GATHER_SHARE = 0.25

# Kernels that compute per element or stride over heads, against streaming: gated activations 1035 and 1950 GB/s,
# rotations 965 and 1690 GB/s on A100 and H100 (microsoft/vidur mlp.csv and attention profiles, 2048-4096 tokens), where
# streaming kernels reach 1630 and 2680.
GATED_SHARE = 0.68
ROTARY_SHARE = 0.61


@dataclass(frozen=True)
class Traffic:
    """Memory traffic of some kernels: how many launches, and their bytes in total."""

    kernels: int = 0
    moved_bytes: float = 0.0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.kernels + other.kernels, self.moved_bytes + other.moved_bytes)


def kernel(moved_bytes: float) -> Traffic:
    """One kernel."""
    return Traffic(1, moved_bytes)


def gather(moved_bytes: float) -> Traffic:
    """One kernel with random access by rows, its bytes scaled to what streaming would move in that time."""
    return Traffic(1, moved_bytes / GATHER_SHARE)


def gated(moved_bytes: float) -> Traffic:
    """One gated activation (SwiGLU), scaled likewise."""
    return Traffic(1, moved_bytes / GATED_SHARE)


def rotary(moved_bytes: float) -> Traffic:
    """One rotation of queries and keys by their positions, scaled likewise."""
    return Traffic(1, moved_bytes / ROTARY_SHARE)


def elementwise_seconds(traffic: Traffic, gpu: GPU) -> float:
    """Time of memory-bound kernels run one after the other."""
    bandwidth = gpu.elementwise_efficiency * gpu.memory_bandwidth
    return traffic.kernels * gpu.elementwise_overhead_s + traffic.moved_bytes / bandwidth
