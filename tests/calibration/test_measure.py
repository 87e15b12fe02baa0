"""Clocks: what lies between two moments, and how often the device is waited for."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import ClassVar

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")

import torch

from pipesim.calibration.device import Cpu, Cuda, DeviceError, open_device
from pipesim.calibration.measure import PHASES, WARM_UP, phases, sample
from pipesim.calibration.samples import Samples


class Fake:
    """A device on which time passes only while pieces say so."""

    torch_device = torch.device("cpu")
    cache_bytes = 0

    def __init__(self):
        self.now, self.waits = 0.0, 0

    def mark(self):
        return self.now

    def seconds(self, marks):
        self.waits += 1
        return [end - start for start, end in pairwise(marks)]


class Steps:
    """A piece whose phases take 1, 2 and 4 times as many seconds as runs before."""

    def __init__(self, device):
        self.device, self.runs = device, 0

    def forward(self):
        self.runs += 1
        self.device.now += self.runs

    def input_grad(self, result):
        self.device.now += 2 * self.runs

    def weight_grad(self, result):
        self.device.now += 4 * self.runs


def test_phases_are_told_apart_without_the_warm_up_and_with_one_wait():
    """Runs 4 to 6 are measured."""
    device = Fake()
    found = phases(device, Steps(device), repeats=3)
    assert [found[name].seconds for name in PHASES] == [(4, 5, 6), (8, 10, 12), (16, 20, 24)]
    assert device.waits == 1


@pytest.mark.parametrize(("run_s", "runs"), [(1.0, 1), (0.0003, 4), (1e-9, 256)])
def test_short_works_run_several_times_in_a_sample(run_s, runs):
    """A sample takes a millisecond where 256 runs suffice; it is waited for after the warm-up and at the end."""
    device, calls = Fake(), []

    def work(name):
        def run():
            device.now += run_s
            calls.append(name)

        return run

    found = sample(device, [work("a"), work("b")], repeats=5)
    assert found.seconds == pytest.approx([run_s] * 5, rel=1e-6)  # sums of floats
    assert len(calls) == WARM_UP + 5 * runs
    assert calls[:4] == ["a", "b", "a", "b"]
    assert device.waits == 2


def test_a_median_ignores_what_a_few_repeats_suffered():
    """And the spread is the distance between the quartiles."""
    samples = Samples((1.0, 2.0, 2.0, 2.0, 100.0))
    assert (samples.median_s, samples.spread) == (2.0, 0.0)
    assert Samples((1.0, 2.0, 3.0, 4.0, 5.0)).spread == pytest.approx(2 / 3)


def test_the_cpu_clock_measures_seconds():
    """Marks are nanoseconds."""
    assert Cpu().seconds([0, 1_500_000_000, 1_500_000_001]) == [1.5, 1e-9]


class Event:
    """A CUDA event whose place in the queue is its time in milliseconds."""

    log: ClassVar[list[str]] = []

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.log.append("record")
        self.place = len(self.log)

    def elapsed_time(self, other):
        assert "synchronize" in self.log
        return float(other.place - self.place)


@pytest.fixture
def cuda(monkeypatch):
    """The CUDA device with a fake driver under it."""
    log = Event.log = []
    allocated = iter((1000, 4500))
    fakes = {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "get_device_properties": lambda device: SimpleNamespace(name="H200", L2_cache_size=60 * 2**20),
        "Event": Event,
        "synchronize": lambda device: log.append("synchronize"),
        "memory_allocated": lambda device: next(allocated),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return open_device(None)


def test_cuda_is_timed_by_events_and_waited_for_once(cuda):
    """Milliseconds of events become seconds; nothing waits between the runs."""

    class Nothing:
        def forward(self):
            pass

        def input_grad(self, result):
            pass

        weight_grad = input_grad

    found = phases(cuda, Nothing(), repeats=2)
    assert found["forward"].seconds == (1e-3, 1e-3)
    assert Event.log == ["record"] * (1 + 3 * (WARM_UP + 2)) + ["synchronize"]


def test_cuda_keeps_what_its_allocator_has_not_got_back(cuda):
    """Without waiting for the device."""
    assert cuda.kept_bytes(lambda: "graph") == 3500
    assert "synchronize" not in Event.log
    assert isinstance(cuda, Cuda)
    assert cuda.cache_bytes == 60 * 2**20
    assert cuda.describe()["device"] == "H200"


def test_a_missing_gpu_is_bad_input(monkeypatch):
    """Where PyTorch sees none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="--device cpu"):
        open_device("cuda")
    assert isinstance(open_device(None), Cpu)
