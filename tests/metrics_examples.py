"""Metrics as in the result JSON, small enough to read; shared by the tests of reports."""

from __future__ import annotations

import copy

TIMES = ("compute", "recompute", "exposed_p2p", "exposed_collective", "warmup", "dependency", "drain", "optimizer")


def rank(number, peak_bytes, in_flight):
    """One entry of ``ranks``, with 46 GB of what stays."""
    static = {"weights_bytes": 10e9, "gradients_bytes": 7e9, "optimizer_bytes": 29e9}
    memory = {
        "peak_bytes": peak_bytes,
        "at_s": 0.1,
        **static,
        "activations_bytes": peak_bytes - 46e9,
        "buffers_bytes": 0.0,
    }
    return {"rank": number, "busy_s": 10.0, "bubble_fraction": 0.1, "peak_in_flight": in_flight, "memory": memory}


CLUSTER_RUN = {
    "config": {
        "model": "gpt3-175b",
        "cluster": {"gpu": {"base": "a100-sxm-80gb", "memory": "80 GB"}, "nodes": 8},
        "parallelism": {"pipeline": 4, "tensor": 8, "data": 2, "context": 1, "expert": 1},
        "schedule": {"name": "interleaved-1f1b", "chunks": 2, "group_size": None},
        "training": {"micro_batch": 2, "global_batch": 32, "precision": "bf16", "recompute": "selective", "zero": 1},
    },
    "step_time_s": 12.3456,
    "compute_makespan_s": 12.1,
    "bubble_fraction": 0.0812,
    "bubble_overhead": 0.0932,
    "span_bubble_fraction": 0.07,
    "throughput": {
        "samples_per_s": 3.21,
        "tokens_per_s": 65432.1,
        "tokens_per_s_per_gpu": 682.31,
        "model_tflops_per_gpu": 148.2,
        "hardware_tflops_per_gpu": 197.5,
        "mfu": 0.475,
        "hfu": 0.633,
    },
    "memory": {"peak_bytes": 76e9, "capacity_bytes": 80e9, "fits": True},
    "time_breakdown": dict(zip(TIMES, (10.1, 0.0, 0.21, 0.4, 0.5, 0.3, 0.6, 0.05), strict=True)),
    "ranks": [rank(r, 76e9 - r * 1e9, 5 - r) for r in range(4)],
    "critical_path": {"F": 0.33, "B": 0.6, "OPT": 0.01, "p2p": 0.0},
    "theory": {"source": "somebody 2021, section 2", "bubble_fraction": 0.0789, "peak_in_flight": [5, 4, 3, 2]},
    "warnings": ["stage 3 is 12 % slower than the mean"],
}

ABSTRACT_RUN = {
    "config": {"pipeline": {"ranks": 4, "microbatches": 8}, "schedule": {"name": "1f1b"}},
    "step_time_s": 33.0,
    "compute_makespan_s": 33.0,
    "bubble_fraction": 3 / 11,
    "bubble_overhead": 3 / 8,
    "span_bubble_fraction": 3 / 11,
    "throughput": dict.fromkeys(CLUSTER_RUN["throughput"]),
    "memory": {"peak_bytes": None, "capacity_bytes": None, "fits": None},
    "time_breakdown": dict(zip(TIMES, (24.0, 0.0, 0.0, 0.0, 3.0, 3.0, 3.0, 0.0), strict=True)),
    "ranks": [{"rank": r, "peak_in_flight": 4 - r, "memory": {"peak_bytes": None}} for r in range(4)],
    "critical_path": {"F": 1 / 3, "B": 2 / 3},
    "theory": None,
    "warnings": [],
}


def misfit(advice=()):
    """The cluster run with 91.2 GB on rank 0."""
    run = copy.deepcopy(CLUSTER_RUN)
    run["ranks"][0] = rank(0, 91.2e9, 5)
    run["memory"] = {"peak_bytes": 91.2e9, "capacity_bytes": 80e9, "fits": False, "advice": list(advice)}
    return run
