"""Step curves of memory: bytes per category and rank over time, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipesim.errors import PipesimError
from pipesim.report.colours import CATEGORIES

COLUMNS = ("rank", "time_s", "category", "bytes")


class Curves(NamedTuple):
    """One rank's memory: ``bytes[c, t]`` of ``categories[c]`` holds from ``time_s[t]`` on.

    Categories that are always zero are left out.
    """

    rank: int
    time_s: NDArray[np.float64]
    categories: list[str]
    bytes: NDArray[np.float64]

    @property
    def total(self) -> NDArray[np.float64]:
        """Sum over categories, shape (t,)."""
        return np.asarray(self.bytes.sum(axis=0), np.float64)

    @property
    def peak(self) -> tuple[float, float]:
        """When the largest total is first reached, and how many bytes it is."""
        at = int(self.total.argmax())
        return float(self.time_s[at]), float(self.total[at])


def curves_of(memory: pd.DataFrame, ranks: Sequence[int] | None = None) -> list[Curves]:
    """The curves of every rank, or of those asked for, by rank.

    Where several rows of a rank and category have one time, the last counts.

    Raises:
        PipesimError: a column is missing, a rank is unknown, or there is nothing.
    """
    missing = [name for name in COLUMNS if name not in memory.columns]
    if missing:
        raise PipesimError(f"memory over time needs the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}")
    groups = {cast(int, rank): own for rank, own in memory.groupby("rank")}
    wanted = sorted(groups) if ranks is None else list(ranks)
    unknown = [rank for rank in wanted if rank not in groups]
    if unknown or not wanted:
        known = f"{min(groups)} to {max(groups)}" if groups else "none"
        raise PipesimError(f"no memory is known of rank {', '.join(map(str, unknown)) or 'any'}; known ranks: {known}")
    return [_curves(rank, groups[rank]) for rank in wanted]


def _curves(rank: int, rows: pd.DataFrame) -> Curves:
    rows = rows.sort_values("time_s", kind="stable")
    present = [str(name) for name in rows.loc[rows["bytes"] != 0, "category"].unique()] or ["activations"]
    order = {name: i for i, name in enumerate(CATEGORIES)}
    categories = sorted(present, key=lambda name: (order.get(name, len(order)), name))
    time = np.unique(rows["time_s"].to_numpy(np.float64))
    curves = np.zeros((len(categories), len(time)))
    for row, name in enumerate(categories):
        own = rows[rows["category"] == name]
        at = np.searchsorted(own["time_s"].to_numpy(np.float64), time, side="right") - 1
        before = 0.0  # what position -1 stands for
        curves[row] = np.append(own["bytes"].to_numpy(np.float64), before)[at]
    return Curves(rank, time, categories, curves)


def fullest(curves: Sequence[Curves]) -> Curves:
    """The curves with the highest peak; the lowest rank of several."""
    return max(curves, key=lambda own: own.peak[1])
