"""How long schedules take to generate, as ratios to a fixed loop timed in the same run.

Run with: pytest tests/benchmarks -o addopts="--import-mode=importlib"
"""

from __future__ import annotations

import time

import numpy as np
import pytest

from pipesim.schedules import Setting, StepCosts, create


def profiled(ranks, microbatches):
    """The first profile of arXiv 2401.10241, Table 9, in nanoseconds; W keeps half the activations."""
    times = [np.full(ranks, t) for t in (18_522_000, 18_086_000, 9_337_000)]
    return Setting(ranks, microbatches, StepCosts(*times, 601_000, np.ones(ranks), np.ones(ranks) / 2))


def uneven(ranks, microbatches):
    """The same with stages that differ by up to 20 %."""
    base = profiled(ranks, microbatches).costs
    factor = np.random.default_rng(0).uniform(0.9, 1.1, (3, ranks))
    times = (base.forward, base.input_grad, base.weight_grad) * factor
    memory = base.activations, base.weight_grad_activations
    return Setting(ranks, microbatches, StepCosts(*times.astype(np.int64), base.hop, *memory))


def on_a_v(ranks, microbatches):
    """Two stages per rank, each with half a rank's profile."""
    costs = profiled(2 * ranks, microbatches).costs
    times = (costs.forward // 2, costs.input_grad // 2, costs.weight_grad // 2)
    memory = costs.activations, costs.weight_grad_activations
    return Setting(ranks, microbatches, StepCosts(*times, costs.hop, *memory))


GENERATED = [
    # schedule, options, setting, largest ratio to the reference loop (75 is about two seconds on a core of 2023)
    ("zb-h1", {}, profiled(64, 1024), 1.5),
    ("zb-h2", {}, profiled(64, 1024), 1.5),
    ("zb-1p", {}, profiled(64, 256), 1.0),
    ("zb-2p", {}, profiled(64, 256), 1.0),
    # No order is known to be optimal here, so that the search goes on until its effort is spent.
    ("zb-auto", {"memory_limit": 1.25}, profiled(64, 256), 75.0),
    ("zb-auto", {"memory_limit": 1.25}, uneven(64, 256), 75.0),
    ("zb-auto", {"memory_limit": 1.25}, uneven(8, 64), 20.0),
    ("zb-v", {}, Setting(64, 256), 75.0),
    ("v-half", {}, Setting(32, 96), 5.0),
    ("v-half", {"retime": True}, on_a_v(32, 96), 75.0),
    ("v-adaptive", {"memory_limit": 0.5}, on_a_v(16, 64), 75.0),
    # Looped and bidirectional: half a second at most, and far less than that.
    ("interleaved-1f1b", {"chunks": 4}, Setting(64, 1024), 3.0),
    ("breadth-first", {"chunks": 4}, Setting(64, 1024), 3.0),
    ("interleaved-zb", {"chunks": 2}, Setting(64, 1024), 4.0),
    ("gis", {"chunks": 2}, Setting(64, 1024), 4.0),
    ("chimera", {"pairs": 4}, Setting(64, 1024), 4.0),
    ("chimera", {"concatenation": "doubling"}, Setting(64, 1024), 4.0),
    ("bitpipe", {"early_forwarding": True}, Setting(64, 1024), 5.0),
    ("hanayo", {"waves": 4}, Setting(64, 1024), 10.0),
    ("dualpipe", {}, Setting(64, 1024), 4.0),
    ("dualpipe-v", {}, Setting(64, 1024), 4.0),
]


@pytest.fixture(scope="module")
def reference_s():
    """Seconds of a million additions in plain Python, the best of five."""
    return min(_timed(_add_up) for _ in range(5))


def _timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _add_up():
    total = 0
    for number in range(1_000_000):
        total += number
    return total


def label(case):
    name, options, setting, _ = case
    return f"{name}-P{setting.ranks}-M{setting.microbatches}" + "".join(f"-{k}={v}" for k, v in options.items())


@pytest.mark.parametrize("case", GENERATED, ids=label)
def test_generation(benchmark, case, reference_s):
    """Generation stays below its ratio, compilation apart."""
    name, options, setting, most = case
    schedule = create(name, **options)
    benchmark.pedantic(schedule.program, args=(setting,), rounds=3, warmup_rounds=1)
    ratio = benchmark.stats.stats.min / reference_s
    benchmark.extra_info["ratio to the reference loop"] = ratio
    assert ratio <= most
