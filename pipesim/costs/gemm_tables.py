"""Measured matrix products: their distance from the roofline by size, and the rates of grouped ones by rows.

A table counts by its ratio to the roofline of the GPU it was measured on. So a product inside the grid takes what
was measured, one outside of it the roofline times the nearest ratio, and a GPU without a table of its own its own
roofline times the ratios of a GPU like it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipesim import catalog

Sizes = NDArray[np.float64]
# (m, n, k) of a product -> seconds by the roofline
Roofline = Callable[[Sizes, Sizes, Sizes], Sizes]


class Deviations:
    """Measured over predicted times on a grid of sizes, linear in the logarithms of all of them between its points."""

    def __init__(self, entry: Mapping[str, Any], roofline: Roofline) -> None:
        self.axes = [np.log(np.array(entry[name], np.float64)) for name in ("m", "n", "k")]
        m, n, k = np.meshgrid(*(np.exp(axis) for axis in self.axes), indexing="ij")
        rates = np.array(entry["tera_flops"], np.float64).transpose(1, 2, 0) * 1e12 * entry["sustained"]
        self.log_ratio = np.log(2 * m * n * k / rates / roofline(m, n, k))

    def __call__(self, m: Sizes, n: Sizes, k: Sizes) -> Sizes:
        """The ratio for products of these sizes; beyond the grid, that of its nearest point."""
        places = [_place(axis, size) for axis, size in zip(self.axes, (m, n, k), strict=True)]
        total = np.zeros(np.broadcast_shapes(m.shape, n.shape, k.shape))
        for corner in np.ndindex(2, 2, 2):
            weight = [part if up else 1.0 - part for up, (_, part) in zip(corner, places, strict=True)]
            at = tuple(low + up for up, (low, _) in zip(corner, places, strict=True))
            total = total + weight[0] * weight[1] * weight[2] * self.log_ratio[at]
        return np.asarray(np.exp(total))


def _place(axis: Sizes, size: Sizes) -> tuple[NDArray[np.int64], Sizes]:
    """The grid point below a size and how far it is to the next one, 0..1."""
    where = np.interp(np.log(np.maximum(size, 1.0)), axis, np.arange(len(axis)))
    low = np.minimum(where.astype(np.int64), len(axis) - 2)
    return low, where - low


def measured(gpu: str, precision: str) -> tuple[str, Mapping[str, Any]] | None:
    """The table for a GPU of the catalog, and the GPU that it was measured on; None where there is none."""
    entry = catalog.load("gemm").get(gpu, {}).get(precision)
    return None if entry is None else (measured(entry["like"], precision) if "like" in entry else (gpu, entry))


@dataclass(frozen=True)
class Saturation:
    """A grouped product of many rows runs at ``rate`` times a dense one; with ``rows`` rows per group at half that."""

    rate: float
    rows: float


@cache
def grouped(gpu: str, role: str) -> Saturation:
    """How products of routed experts behave on a GPU of the catalog, for one of the three roles."""
    entry = catalog.load("gemm")[gpu]["grouped"]
    if "like" in entry:
        return grouped(entry["like"], role)
    return Saturation(float(entry[role]["rate"]), float(entry[role]["rows"]))
