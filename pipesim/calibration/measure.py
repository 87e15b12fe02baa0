"""Repeated runs on a device, timed."""

from __future__ import annotations

import gc
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pipesim.calibration.device import Device
from pipesim.calibration.pieces import Piece
from pipesim.calibration.samples import Samples

WARM_UP = 3
"""Runs before the measured ones: libraries choose kernels in the first, allocators and caches settle."""

LEAST_S = 1e-3
"""A sample is as many runs as take this long: 2000 times the resolution of CUDA events (0.5 us)."""

_MOST_RUNS = 256

PHASES = ("forward", "input_grad", "weight_grad")

Work = Callable[[], Any]


def sample(device: Device, works: Sequence[Work], repeats: int) -> Samples:
    """Time of one run of ``works``, which take turns."""
    turn = itertools.cycle(works)

    def marks(samples: int, runs: int) -> list[Any]:
        found = [device.mark()]
        for _ in range(samples):
            for _ in range(runs):
                next(turn)()
            found.append(device.mark())
        return found

    with _undisturbed():
        once_s = device.seconds(marks(WARM_UP, 1))[-1]
        runs = min(max(math.ceil(LEAST_S / once_s), 1), _MOST_RUNS) if once_s > 0 else _MOST_RUNS
        seconds = device.seconds(marks(repeats, runs))
    return Samples(tuple(each / runs for each in seconds))


def phases(device: Device, piece: Piece, repeats: int) -> dict[str, Samples]:
    """Times of a piece's forward and of the halves of its backward, run back to back as in training."""
    marks = [device.mark()]
    with _undisturbed():
        for _ in range(WARM_UP + repeats):
            result = piece.forward()
            marks.append(device.mark())
            piece.input_grad(result)
            marks.append(device.mark())
            piece.weight_grad(result)
            del result
            marks.append(device.mark())
        seconds = device.seconds(marks)[WARM_UP * len(PHASES) :]
    return {name: Samples(tuple(seconds[index :: len(PHASES)])) for index, name in enumerate(PHASES)}


def forward_alone(device: Device, piece: Piece, repeats: int) -> Samples:
    """A forward that keeps nothing for a backward, as under full recomputation."""
    with torch.no_grad():
        return sample(device, [piece.forward], repeats)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Python collects no garbage meanwhile."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
