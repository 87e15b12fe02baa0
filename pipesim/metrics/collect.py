"""The result as plain data: everything that the result JSON reports, assembled from pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipesim.costs.costs import Costs
from pipesim.ir.op import Kind
from pipesim.ir.timeline import Timeline, to_seconds
from pipesim.metrics import memory
from pipesim.metrics.breakdown import PARTS
from pipesim.metrics.critical import shares
from pipesim.metrics.summary import Summary, summarize

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Work:
    """What one step gets done: samples and tokens of the global batch, FLOPs over all GPUs, and those GPUs.

    ``model_flops`` counts each needed operation once, ``hardware_flops`` also recomputation; ``peak_flops`` is
    one GPU's, at the training precision.
    """

    samples: float
    tokens: float
    model_flops: float
    hardware_flops: float
    gpus: int
    peak_flops: float


def collect(timeline: Timeline, costs: Costs, work: Work | None) -> dict[str, Any]:
    """Metrics of one simulated step; quantities that the abstract form cannot know are None."""
    return report(summarize(timeline, costs), costs, work)


def report(summary: Summary, costs: Costs, work: Work | None) -> dict[str, Any]:
    """The metrics of a summary as plain data."""
    busy = summary.busy
    in_seconds = {name: summary.parts[name] / 1e12 for name in PARTS}
    step_s = to_seconds(busy.step)
    return {
        "step_time_s": step_s,
        "compute_makespan_s": to_seconds(busy.makespan),
        "bubble_fraction": busy.bubble_fraction,
        "bubble_overhead": busy.bubble_overhead,
        "span_bubble_fraction": busy.span_bubble_fraction,
        "throughput": throughput(step_s, work),
        "memory": _memory(summary.peaks, costs),
        "time_breakdown": {name: float(value.mean()) for name, value in in_seconds.items()},
        "ranks": [
            {
                "rank": rank,
                "busy_s": to_seconds(int(busy.busy[rank])),
                "bubble_fraction": busy.rank_bubble_fraction(rank),
                "span_s": to_seconds(int(busy.span[rank])),
                "peak_in_flight": float(summary.peak_in_flight[rank]),
                "time_breakdown": {name: float(value[rank]) for name, value in in_seconds.items()},
                "memory": _rank_memory(rank, summary.resident, summary.peaks),
            }
            for rank in range(len(busy.busy))
        ],
        "critical_path": shares(summary.path, busy.step),
    }


def throughput(step_s: float, work: Work | None) -> dict[str, float | None]:
    """Rates per second; model FLOP/s count every needed operation once, hardware FLOP/s recomputation too."""
    if work is None or step_s == 0:
        names = ("samples_per_s", "tokens_per_s", "tokens_per_s_per_gpu", "model_tflops_per_gpu")
        return dict.fromkeys((*names, "hardware_tflops_per_gpu", "mfu", "hfu"))
    model, hardware = (flops / step_s / work.gpus for flops in (work.model_flops, work.hardware_flops))
    return {
        "samples_per_s": work.samples / step_s,
        "tokens_per_s": work.tokens / step_s,
        "tokens_per_s_per_gpu": work.tokens / step_s / work.gpus,
        "model_tflops_per_gpu": model / 1e12,
        "hardware_tflops_per_gpu": hardware / 1e12,
        "mfu": model / work.peak_flops,
        "hfu": hardware / work.peak_flops,
    }


def _memory(peaks: memory.Peak, costs: Costs) -> dict[str, Any]:
    most = float(peaks.bytes.max(initial=0.0))
    capacity = costs.capacity_bytes
    return {
        "peak_bytes": most,
        "capacity_bytes": capacity,
        "fits": None if capacity is None else most <= capacity,
    }


def _rank_memory(rank: int, fixed: memory.Resident, peaks: memory.Peak) -> dict[str, float | str | None]:
    return {
        "peak_bytes": float(peaks.bytes[rank]),
        "at_s": to_seconds(int(peaks.at[rank])),
        "weights_bytes": float(fixed.weights[rank]),
        "gradients_bytes": float(fixed.gradients[rank]),
        "optimizer_bytes": float(fixed.optimizer[rank]),
        "activations_bytes": float(peaks.activations[rank]),
        "buffers_bytes": float(fixed.buffers[rank]),
        "at_op": _token(rank, peaks),
    }


def _token(rank: int, peaks: memory.Peak) -> str | None:
    """The op with which a rank's memory peaks; None on ranks without ops."""
    kind, stage, microbatch = (int(column[rank]) for column in (peaks.kind, peaks.stage, peaks.microbatch))
    if kind < 0:
        return None
    return f"{stage if stage >= 0 else ''}{Kind(kind).name}{microbatch if microbatch >= 0 else ''}"
