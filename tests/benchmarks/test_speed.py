"""The targets of speed, each a ratio to a reference loop timed in the same run, and the times themselves.

Run with: python -m pytest tests/benchmarks -o addopts="--import-mode=importlib"
"""

from __future__ import annotations

import pytest

from pipesim import api
from pipesim.engine import compiled, event
from pipesim.engine.batch import Batch
from tests.benchmarks import cases, reference


@pytest.mark.parametrize("size", cases.ENGINE_SIZES, ids=lambda size: cases.named(*size))
def test_the_compiled_engine_is_as_fast_as_a_bare_replay(size):
    """At least 0.6 of its speed."""
    assert cases.engine(*size).met


@pytest.mark.parametrize("size", [("1f1b", 512, 2048, None), ("interleaved-1f1b", 128, 2048, 4)])
def test_a_config_of_two_million_ops_becomes_metrics(size):
    """Within ten times the bare replay, in under 300 bytes per op."""
    assert cases.end_to_end(*size).met


@pytest.mark.parametrize(
    "row",
    [
        cases.rebinding,
        lambda: cases.batch(32),
        lambda: cases.batch(1000),
        lambda: cases.events("1f1b", 16, 256),
        lambda: cases.events("interleaved-1f1b", 16, 256, 4),
        cases.perturbed,
        cases.extrapolation,
    ],
)
def test_other_targets(row):
    """As the table prints them."""
    found = row()
    assert found.met, found


def test_processes_start_quickly():
    """Help and a small run, beyond an empty Python process."""
    for row in cases.start_up():
        assert row.met, row


FUNCTIONS = {
    "compiled engine": compiled.run,
    "event engine": event.run,
    "bare numba replay": reference.cursor_replay,
    "bare SimPy loop": reference.simpy_replay,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_replaying_8192_ops(benchmark, name):
    """1F1B, P=16, M=256."""
    benchmark(FUNCTIONS[name], cases.graph("1f1b", 16, 256))


def test_a_hundred_duration_vectors(benchmark):
    """1F1B, P=16, M=256."""
    bound = cases.graph("1f1b", 16, 256)
    benchmark(Batch(bound).makespans, bound.duration.repeat(100).reshape(-1, 100).T.copy())


def test_simulating_131072_ops(benchmark):
    """From a config to all metrics, 1F1B, P=64, M=1024."""
    benchmark(api.simulate, cases.config("1f1b", 64, 1024))
