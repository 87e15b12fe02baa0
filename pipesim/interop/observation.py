"""What was seen of a training run: ops with their times, step by step, from whatever recorded them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from pipesim.errors import PipesimError
from pipesim.ir.op import COMPUTE_KINDS

COMPUTE = [kind.name for kind in COMPUTE_KINDS]

COLUMNS = ("rank", "resource", "kind", "stage", "microbatch", "route", "start_s", "end_s", "pair", "step")


class TraceError(PipesimError):
    """A trace cannot be read, or there is no pipeline in it."""


@dataclass(frozen=True, eq=False)
class Observation:
    """``frame`` has one row per op and step, columns `COLUMNS`; time is zero at the first op. ``notes`` say what
    was left out, for people."""

    frame: pd.DataFrame
    notes: Sequence[str] = field(default=())

    @property
    def steps(self) -> list[int]:
        """Numbers of the steps, in order of time."""
        return sorted(self.frame["step"].unique().tolist())

    def of_step(self, step: int) -> pd.DataFrame:
        """The ops of one step, from time zero on."""
        rows = self.frame[self.frame["step"] == step].drop(columns="step").reset_index(drop=True)
        begin = rows["start_s"].min()
        return rows.assign(start_s=rows["start_s"] - begin, end_s=rows["end_s"] - begin)


def finished(frame: pd.DataFrame, notes: Iterable[str] = ()) -> Observation:
    """An observation of ops with all columns: checked, in order of rank and time, from time zero on.

    Raises:
        TraceError: no compute op, or an op that ends before it starts.
    """
    if not frame["kind"].isin(COMPUTE).any():
        raise TraceError("there is no pipeline op in it; expected forwards and backwards of micro-batches")
    backwards = frame[~(frame["end_s"] >= frame["start_s"])]
    if len(backwards):
        row = backwards.iloc[0]
        raise TraceError(f"op {row['stage']}{row['kind']}{row['microbatch']} ends before it starts")
    frame = frame.sort_values(["step", "rank", "start_s", "end_s"], kind="stable").reset_index(drop=True)
    begin = frame["start_s"].min()
    frame = frame.assign(start_s=frame["start_s"] - begin, end_s=frame["end_s"] - begin)
    return Observation(frame[list(COLUMNS)], tuple(notes))


def pipeline_ranks(stages: dict[Hashable, frozenset[int]]) -> tuple[dict[Hashable, int], list[str]]:
    """Pipeline rank of every observed process, from the stages that each ran, and notes.

    Ranks are numbered by their first stage, as every looped and V-shaped placement does. Of processes with the
    same stages (data-parallel replicas), the first is kept.

    Raises:
        TraceError: two processes share only some of their stages.
    """
    kept: dict[frozenset[int], Hashable] = {}
    for process, own in stages.items():
        kept.setdefault(own, process)
    ordered = sorted(kept, key=lambda own: min(own))
    everything = sorted(stage for own in ordered for stage in own)
    if len(set(everything)) < len(everything):
        raise TraceError("a stage ran in several processes that do not run the same stages: not one pipeline")
    notes = []
    if len(kept) < len(stages):
        notes.append(f"{len(stages)} processes run {len(kept)} sets of stages; the first replica of each was kept")
    missing = sorted(set(range(everything[-1])) - set(everything))
    if missing:
        notes.append(f"stages {', '.join(map(str, missing))} are missing: traces of their ranks were not given")
    return {kept[own]: rank for rank, own in enumerate(ordered)}, notes


def whole_steps(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Without steps that have fewer ops than others: a recording may begin or end within a step."""
    sizes = frame.groupby("step").size()
    partial = sizes[sizes < sizes.max()].index.tolist()
    if not partial:
        return frame, []
    names = ", ".join(map(str, partial))
    return frame[~frame["step"].isin(partial)], [f"steps recorded only in part were left out: {names}"]


def occurrences(frame: pd.DataFrame, keys: Sequence[str]) -> np.ndarray:
    """How many rows before have the same keys, in order of time, shape (n,)."""
    order = frame.sort_values("start_s", kind="stable")
    return order.groupby(list(keys)).cumcount().reindex(frame.index).to_numpy()
