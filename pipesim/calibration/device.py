"""Devices to measure on: their clocks, and the memory that a forward leaves in use.

A CUDA device works on its own while the host goes on, so a moment is an event in its queue; it is waited for once,
after everything has been queued. On the CPU a moment is the host's clock.
"""

from __future__ import annotations

import itertools
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from pipesim.calibration.kept import Created
from pipesim.errors import PipesimError

HOST_CACHE_BYTES = 64 * 2**20
"""What is taken for a CPU's last-level cache, which PyTorch does not tell: that of a large server processor's socket
is 32 to 105 MiB for most Xeon and EPYC dies."""


class DeviceError(PipesimError):
    """A device is not there."""


class Device(Protocol):
    """Where to measure."""

    torch_device: torch.device
    cache_bytes: int

    def mark(self) -> Any:
        """This moment, in the order in which the device works."""

    def seconds(self, marks: Sequence[Any]) -> list[float]:
        """Time between successive moments, once the device has reached the last."""

    def kept_bytes(self, forward: Callable[[], Any]) -> int:
        """Bytes that ``forward`` allocates and that are in use as long as what it returns is; not in its first run,
        which allocates what is used ever after."""

    def describe(self) -> dict[str, Any]:
        """What it is, for people."""


class Cpu:
    """This machine's processor."""

    torch_device = torch.device("cpu")
    cache_bytes = HOST_CACHE_BYTES

    def mark(self) -> int:
        """Nanoseconds of the host's clock."""
        return time.perf_counter_ns()

    def seconds(self, marks: Sequence[int]) -> list[float]:
        """Nothing to wait for: work on the CPU is done when the call returns."""
        return [(end - start) / 1e9 for start, end in itertools.pairwise(marks)]

    def kept_bytes(self, forward: Callable[[], Any]) -> int:
        """Storages that were made and have not been freed."""
        created = Created()
        with created:
            held = forward()
        alive = created.alive_bytes()
        del held
        return alive

    def describe(self) -> dict[str, Any]:
        """Processor and threads."""
        threads = torch.get_num_threads()
        return {"device": _processor(), "kind": "cpu", "threads": threads, "torch": torch.__version__}


class Cuda:
    """The current CUDA device."""

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise DeviceError("PyTorch sees no CUDA device; allowed: --device cpu")
        self.torch_device = torch.device("cuda", torch.cuda.current_device())
        self.properties = torch.cuda.get_device_properties(self.torch_device)
        self.cache_bytes = int(getattr(self.properties, "L2_cache_size", HOST_CACHE_BYTES))

    def mark(self) -> Any:
        """An event in the current stream."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, marks: Sequence[Any]) -> list[float]:
        """The device's own times between the events."""
        torch.cuda.synchronize(self.torch_device)
        return [start.elapsed_time(end) / 1e3 for start, end in itertools.pairwise(marks)]

    def kept_bytes(self, forward: Callable[[], Any]) -> int:
        """What PyTorch's allocator has given out and not got back; it knows when the host frees, without waiting."""
        before = torch.cuda.memory_allocated(self.torch_device)
        held = forward()
        after = torch.cuda.memory_allocated(self.torch_device)
        del held
        return int(after - before)

    def describe(self) -> dict[str, Any]:
        """GPU and versions."""
        versions = {"torch": torch.__version__, "cuda": torch.version.cuda}
        return {"device": self.properties.name, "kind": "cuda", **versions}


def open_device(name: str | None) -> Device:
    """A device by name; CUDA where there is one when None. Raises DeviceError when it is not there."""
    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    return Cuda() if chosen == "cuda" else Cpu()


def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            named = next(line for line in lines if line.startswith("model name"))
        return named.partition(":")[2].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
