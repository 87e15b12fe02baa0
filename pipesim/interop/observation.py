"""What was seen of a training run: ops with their times, step by step, from whatever recorded them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pandas as pd

from pipesim.errors import PipesimError
from pipesim.ir.op import COMPUTE_KINDS

COMPUTE = [kind.name for kind in COMPUTE_KINDS]

COLUMNS = ("rank", "resource", "kind", "stage", "microbatch", "route", "start_s", "end_s", "pair", "step")


NAMED = 16
"""So many missing stages are named at most."""


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


Work = frozenset[tuple[int, int]]
"""Stages and micro-batches that a process worked on: (stage, micro-batch)."""


def pipeline_ranks(work: dict[Hashable, Work]) -> tuple[dict[Hashable, int], list[str]]:
    """Pipeline rank of every observed process, from what each ran, and notes.

    Ranks are numbered by the first stage of their first micro-batch, as in every looped, V-shaped and bidirectional
    placement. Of processes that work on the same (data-parallel replicas), the first is kept.

    Raises:
        TraceError: two processes share only some of their work.
    """
    kept: dict[Work, Hashable] = {}
    for process, own in work.items():
        if not any(_replicas(own, other) for other in kept):
            kept[own] = process
    ordered = sorted(kept, key=lambda own: min((microbatch, stage) for stage, microbatch in own)[::-1])
    everything = [each for own in ordered for each in own]
    if len(set(everything)) < len(everything):
        raise TraceError("a stage ran in several processes that do not run the same stages: not one pipeline")
    notes = []
    if len(kept) < len(work):
        notes.append(f"{len(work)} processes run {len(kept)} sets of stages; the first replica of each was kept")
    stages = {stage for stage, _ in everything}
    missing = list(islice((stage for stage in range(max(stages)) if stage not in stages), NAMED))
    if missing:
        notes.append(f"stages {', '.join(map(str, missing))} are missing: traces of their ranks were not given")
    return {kept[own]: rank for rank, own in enumerate(ordered)}, notes


def _replicas(one: Work, other: Work) -> bool:
    """Whether two processes run the same stages for the same micro-batches, as far as was recorded."""
    return not one.isdisjoint(other) and {stage for stage, _ in one} == {stage for stage, _ in other}


def routes(frame: pd.DataFrame) -> np.ndarray:
    """The route of every op: micro-batches whose stages ran on the same ranks share one; shape (n,)."""
    places = frame.drop_duplicates(["microbatch", "stage", "rank"]).sort_values(["microbatch", "stage", "rank"])
    way = {
        microbatch: (*own["stage"].tolist(), *own["rank"].tolist()) for microbatch, own in places.groupby("microbatch")
    }
    number = {each: route for route, each in enumerate(dict.fromkeys(way.values()))}
    return frame["microbatch"].map({microbatch: number[each] for microbatch, each in way.items()}).to_numpy()


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
