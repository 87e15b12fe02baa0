"""Collectives inside a node: interpolation in measured tables, or latency and bandwidth of a link."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipesim import catalog
from pipesim.hardware import Link
from pipesim.units import parse_bandwidth

Sizes: TypeAlias = NDArray[np.float64] | np.float64
# (operation, buffer bytes, GPUs) -> seconds
Model: TypeAlias = Callable[[str, Sizes, int], NDArray[np.float64]]

# Each further step inside a node: NCCL's own estimate for its LL128 protocol (ring hops in NVIDIA/nccl
# src/graph/tuning.cc). The first step is the link's latency.
_HOP_S = {"nvlink": 1.9e-6, "pcie": 2.5e-6, "network": 14e-6}


@lru_cache
def in_node_model(link: Link) -> Model:
    """Times of collectives among GPUs that ``link`` joins: measured if the catalog can, else a ring."""
    tables = catalog.load("collectives")
    if link.catalog_name is None or link.catalog_name not in tables:
        return Ring(link, {})
    entry = tables[link.catalog_name]
    if "bus_bandwidth" in entry:
        return Ring(link, {name: parse_bandwidth(rate) for name, rate in entry["bus_bandwidth"].items()})
    if "like" in entry:
        return Table(tables[entry["like"]], float(entry["slowdown"]))
    return Table(entry)


class Ring:
    """Latency of the steps of a ring, plus the bytes each GPU sends over the bandwidth of the operation."""

    def __init__(self, link: Link, bandwidths: Mapping[str, float]) -> None:
        self.link = link
        self.bandwidths = bandwidths

    def __call__(self, operation: str, sizes: Sizes, n: int) -> NDArray[np.float64]:
        rounds = 2 if operation == "all_reduce" else 1
        steps = rounds * (n - 1)
        latency_s = self.link.latency_s + (steps - 1) * _HOP_S[self.link.kind]
        bandwidth = self.bandwidths.get(operation, self.link.bandwidth)
        return np.asarray(latency_s + rounds * (n - 1) / n * sizes / bandwidth)


class Table:
    """Measured times by operation, number of GPUs and size, interpolated.

    Log-log in size; below the first size its time holds, beyond the last one the line through the last two
    goes on. Linear in the number of GPUs between measured ones. ``slowdown``: as if that many times more
    bytes were moved.
    """

    def __init__(self, entry: Mapping[str, Any], slowdown: float = 1.0) -> None:
        self.slowdown = slowdown
        self.curves: dict[str, dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
        for operation, rows in entry.items():
            if isinstance(rows, Mapping):
                first = float(entry["first_size"])
                self.curves[operation] = {n: _curve(first, times_us) for n, times_us in rows.items()}

    def __call__(self, operation: str, sizes: Sizes, n: int) -> NDArray[np.float64]:
        if operation not in self.curves:
            return self("all_reduce", sizes, n) / 2
        curves = self.curves[operation]
        sizes = np.asarray(sizes * self.slowdown)
        below = max((size for size in curves if size <= n), default=min(curves))
        above = min((size for size in curves if size >= n), default=below)
        low, high = _interpolate(*curves[below], sizes), _interpolate(*curves[above], sizes)
        if n > above:
            # More bytes per GPU, and two more steps of a ring (reduce, then gather) per GPU.
            return low * ((n - 1) / n) / ((below - 1) / below) + 2 * (n - below) * _HOP_S["nvlink"]
        weight = (n - below) / (above - below) if above > below else 0.0
        return low + weight * (high - low)


def _curve(first_size: float, times_us: list[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sizes and seconds of one row. Noise that makes a larger buffer faster is cut off."""
    times_s = np.minimum.accumulate(np.array(times_us, dtype=np.float64)[::-1])[::-1] * 1e-6
    sizes: NDArray[np.float64] = np.ldexp(first_size, np.arange(len(times_us)))
    return sizes, times_s


def _interpolate(
    sizes: NDArray[np.float64], times_s: NDArray[np.float64], wanted: NDArray[np.float64]
) -> NDArray[np.float64]:
    inside = np.exp(np.interp(np.log(np.maximum(wanted, 1.0)), np.log(sizes), np.log(times_s)))
    rate = (times_s[-1] - times_s[-2]) / (sizes[-1] - sizes[-2])
    return np.where(wanted > sizes[-1], times_s[-1] + (wanted - sizes[-1]) * rate, inside)
