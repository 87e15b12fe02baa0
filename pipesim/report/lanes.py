"""Where the lanes of a chart lie: one group per rank, its compute lane above thinner communication lanes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipesim.errors import PipesimError, nearest

COMPUTE = "compute"

WORKING = (COMPUTE, "update", "host")
"""Resources on which a rank does what its schedule is about: ops, on two engines or one, and copies to the host."""

COLUMNS = ("rank", "resource", "kind", "stage", "microbatch", "start_s", "end_s")
"""What a timeline must have; ``route`` (0) and ``pair`` (-1) may be left out."""

THIN = 0.42
"""Height of a communication lane, where a compute lane's is 1."""

LANE_GAP, RANK_GAP = 0.08, 0.2


@dataclass(frozen=True, eq=False)
class Lanes:
    """Top and bottom of every (rank, resource) lane on an axis that grows downwards, shape (R, L).

    ``ranks`` are the rank numbers, top first; ``resources`` the lanes within each rank, top first.
    """

    ranks: NDArray[np.int64]
    resources: Sequence[str]
    top: NDArray[np.float64]
    bottom: NDArray[np.float64]

    @property
    def height(self) -> float:
        """Total height, in compute lanes."""
        return float(self.bottom[-1, -1]) + RANK_GAP / 2

    @property
    def centre(self) -> NDArray[np.float64]:
        """Middle of every rank's group, shape (R,)."""
        return (self.top[:, 0] + self.bottom[:, -1]) / 2

    def find(self, rank: NDArray[np.int64], resource: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row and column of the lane of every op; the ops must lie on one of the lanes."""
        column = {name: i for i, name in enumerate(self.resources)}
        return np.searchsorted(self.ranks, rank), np.array([column[name] for name in resource], np.int64)


def lay_out(ranks: NDArray[np.int64], resources: Sequence[str]) -> Lanes:
    """Lanes for sorted rank numbers, each with the same resources."""
    heights = np.array([1.0 if name == COMPUTE else THIN for name in resources])
    offset = np.concatenate([[0.0], np.cumsum(heights + LANE_GAP)[:-1]])
    pitch = heights.sum() + LANE_GAP * (len(heights) - 1) + RANK_GAP
    top = RANK_GAP / 2 + np.arange(len(ranks))[:, None] * pitch + offset
    return Lanes(ranks, tuple(resources), top, top + heights)


def choose_resources(frame: pd.DataFrame, lanes: Sequence[str] | Literal["all"] | None) -> list[str]:
    """The resources to draw: as asked for, all that a rank owns, or by default those that work; compute first.

    Raises:
        PipesimError: a resource is asked for that the timeline does not have.
    """
    owned = frame.loc[frame["rank"] >= 0, "resource"].unique()
    present = sorted(map(str, owned), key=lambda name: (name != COMPUTE, name))
    if lanes is None:
        return [name for name in WORKING if name in present or name == COMPUTE]
    if isinstance(lanes, str):
        lanes = present if lanes == "all" else (lanes,)
    for name in lanes:
        if name not in present and name != COMPUTE:
            hint = nearest(name, present)
            raise PipesimError(
                f"the timeline has no lane {name!r}; it has: {', '.join(present)}"
                + (f"; did you mean {hint!r}?" if hint else "")
            )
    return list(lanes)


def checked(frame: pd.DataFrame) -> pd.DataFrame:
    """The timeline with a fresh row index, ``route`` and ``pair`` filled in, pairs sharing one interval.

    Raises:
        PipesimError: columns are missing, or there is no op to draw.
    """
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise PipesimError(f"a timeline needs the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}")
    if not len(frame):
        raise PipesimError("the timeline has no ops")
    frame = frame.reset_index(drop=True)
    frame = frame.assign(**{name: frame[name].astype(str) for name in ("resource", "kind")})
    for name, default in (("route", 0), ("pair", -1)):
        if name not in frame.columns:
            frame[name] = default
    paired = frame["pair"] >= 0
    if paired.any():
        groups = frame[paired].groupby(["rank", "pair"])
        frame.loc[paired, "start_s"] = groups["start_s"].transform("min")
        frame.loc[paired, "end_s"] = groups["end_s"].transform("max")
    return frame


def chunk_of(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Which of its rank's stages on its route every op belongs to, in model order from 0; -1 without a stage."""
    keys = ["rank", "route", "stage"]
    held = frame.loc[(frame["stage"] >= 0) & (frame["resource"] == COMPUTE) & (frame["microbatch"] >= 0), keys]
    held = held.drop_duplicates().sort_values(keys)
    held["chunk"] = held.groupby(["rank", "route"]).cumcount()
    merged = frame[keys].merge(held, on=keys, how="left")
    chunk: NDArray[np.int64] = merged["chunk"].fillna(-1).to_numpy(np.int64)
    return chunk
