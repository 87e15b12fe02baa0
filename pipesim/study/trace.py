"""An observed run, measured and drawn like a simulated one, and what its ops cost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipesim.costs.costs import Costs
from pipesim.costs.unit import unit_costs
from pipesim.errors import ProgramError
from pipesim.interop.observation import COMPUTE, Observation, TraceError
from pipesim.ir.connect import connect
from pipesim.ir.op import Kind, Op, Pair
from pipesim.ir.placement import Placement
from pipesim.ir.program import OpLike, Program
from pipesim.ir.timeline import to_seconds
from pipesim.ir.verify import verify
from pipesim.lowering.bind import bind
from pipesim.metrics.collect import SCHEMA_VERSION, collect
from pipesim.metrics.observed import busy_of, timeline_of
from pipesim.result import Result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def read_trace(paths: Paths) -> Trace:
    """An observed pipeline run.

    ``paths``: traces by PyTorch's profiler, one per rank, or one that pipesim wrote, as `pipesim.interop.kineto`
    reads them; or one table of events (.csv, .parquet), as `pipesim.interop.events` does.

    Raises:
        TraceError: a file cannot be read, or shows no pipeline.
    """
    from pipesim.interop.events import names_of, read_events
    from pipesim.interop.kineto import read_kineto

    one = isinstance(paths, str | os.PathLike)
    files = [Path(paths)] if one else [Path(path) for path in paths]  # type: ignore[arg-type, union-attr]
    if not files:
        raise TraceError("no trace was given")
    if not names_of(files):
        return Trace(read_kineto(files))
    if len(files) > 1:
        raise TraceError("give one table of events; traces of several files are those of PyTorch's profiler")
    return Trace(read_events(files[0]))


@dataclass(frozen=True, eq=False)
class Trace:
    """An observed run. Where ``step`` is not given, the one of median length is meant."""

    observation: Observation

    @cached_property
    def step_times_s(self) -> dict[int, float]:
        """From the first op's start to the last op's end, by step."""
        by_step = self.observation.frame.groupby("step")
        lengths = by_step["end_s"].max() - by_step["start_s"].min()
        return dict(zip(lengths.index.tolist(), lengths.tolist(), strict=True))

    @property
    def median_step(self) -> int:
        """The step of median length; the shorter of two."""
        ordered = sorted(self.step_times_s, key=lambda step: (self.step_times_s[step], step))
        return ordered[(len(ordered) - 1) // 2]

    def timeline(self, step: int | None = None) -> pd.DataFrame:
        """One row per op: rank, resource, kind, stage, microbatch, route, start_s, end_s, pair.

        Raises:
            TraceError: there is no such step.
        """
        steps = self.observation.steps
        if step is not None and step not in steps:
            raise TraceError(f"there is no step {step}; the trace has steps {', '.join(map(str, steps))}")
        return self.observation.of_step(self.median_step if step is None else step)

    def metrics(self, step: int | None = None) -> dict[str, Any]:
        """Step time, the three bubble measures and the ranks' parts; with the time breakdown where `result` is."""
        frame = self.timeline(step)
        busy = busy_of(frame)
        measured: dict[str, Any] = {
            "step_time_s": to_seconds(busy.step),
            "compute_makespan_s": to_seconds(busy.makespan),
            "bubble_fraction": busy.bubble_fraction,
            "bubble_overhead": busy.bubble_overhead,
            "span_bubble_fraction": busy.span_bubble_fraction,
            "ranks": [
                {
                    "rank": rank,
                    "busy_s": to_seconds(int(busy.busy[rank])),
                    "bubble_fraction": busy.rank_bubble_fraction(rank),
                    "span_s": to_seconds(int(busy.span[rank])),
                }
                for rank in range(len(busy.busy))
            ],
        }
        whole = self.result(step)
        if whole is None:
            return measured
        for rank, own in zip(measured["ranks"], whole.metrics["ranks"], strict=True):
            rank |= {"peak_in_flight": own["peak_in_flight"], "time_breakdown": own["time_breakdown"]}
        return measured | {"time_breakdown": whole.metrics["time_breakdown"]}

    def result(self, step: int | None = None) -> Result | None:
        """The compute ops of a step as a result, with everything that one can tell; None unless they are a whole
        training step on all ranks."""
        frame = self.timeline(step)
        ops = frame[frame["kind"].isin(COMPUTE)].sort_values(["rank", "start_s", "end_s"], kind="stable")
        ops = ops.reset_index(drop=True)
        try:
            program = _program(ops)
            verify(program)
        except ProgramError:
            return None
        costs = _no_costs(program)
        graph = bind(connect(program), costs)
        start, end = _in_order_of(program, ops)
        timeline = timeline_of(graph, start, end)
        return Result(
            {
                "schema_version": SCHEMA_VERSION,
                "config": None,
                **collect(timeline, costs, None),
                "theory": None,
                "warnings": list(self.observation.notes),
            },
            timeline,
            costs,
        )

    def gantt(self, ax: Axes | None = None, *, step: int | None = None, **options: Any) -> Axes:
        """Gantt chart of one step; options as in `pipesim.report.gantt.gantt`."""
        from pipesim.report.gantt import gantt

        return gantt(self.timeline(step), ax, **options)

    @cached_property
    def profile(self) -> pd.DataFrame:
        """What each stage's ops cost: the median over micro-batches and steps, in seconds.

        Columns stage, forward_s, and input_grad_s and weight_grad_s where all stages have split backwards,
        backward_s otherwise. Overlapped pairs do not count where the stage also ran by itself.
        """
        frame = self.observation.frame
        ops = frame[frame["kind"].isin(COMPUTE)]
        ops = ops.assign(seconds=ops["end_s"] - ops["start_s"], paired=ops["pair"] >= 0)
        alone = ops.groupby(["stage", "kind"])["paired"].transform("min")
        ops = ops[ops["paired"] == alone]
        table = ops.groupby(["stage", "kind"])["seconds"].median().unstack("kind")
        return _profile(table.reindex(columns=COMPUTE))

    def profile_csv(self) -> str:
        """`profile` as a file for ``costs: {profile: FILE}``."""
        head = "# median over micro-batches and steps of an observed run\n"
        return head + str(self.profile.to_csv(index=False, float_format="%.9g", lineterminator="\n"))

    def as_json(self, step: int | None = None) -> dict[str, Any]:
        """The numbers as plain data."""
        return {
            "steps": [{"step": step, "step_time_s": length} for step, length in self.step_times_s.items()],
            "step": self.median_step if step is None else step,
            "metrics": self.metrics(step),
            "profile": self.profile.to_dict("records"),
            "notes": list(self.observation.notes),
        }


def _program(ops: pd.DataFrame) -> Program:
    """The order in which every rank ran its ops, which are sorted by rank and time."""
    ranks = int(ops["rank"].max()) + 1
    stages = int(ops["stage"].max()) + 1
    if ops["stage"].nunique() < stages:
        raise ProgramError("a stage is missing")
    rank_of = np.empty(stages, np.int64)
    rank_of[ops["stage"]] = ops["rank"]
    orders = [list(_order(ops[ops["rank"] == rank])) for rank in range(ranks)]
    return Program.from_orders(Placement.of(ranks, rank_of), orders)


def _order(ops: pd.DataFrame) -> list[OpLike]:
    order: list[OpLike] = []
    open_pair: dict[int, int] = {}
    columns = (ops[name].tolist() for name in ("stage", "kind", "microbatch", "pair"))
    for stage, kind, microbatch, pair in zip(*columns, strict=True):
        op = Op(int(stage), Kind[str(kind)], int(microbatch))
        if pair in open_pair:
            first = order[open_pair[pair]]
            assert isinstance(first, Op)
            order[open_pair[pair]] = Pair(first, op)
            continue
        if pair >= 0:
            open_pair[pair] = len(order)
        order.append(op)
    return order


def _in_order_of(program: Program, ops: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of the program's ops, shape (n,)."""
    table = ops.assign(code=[Kind[kind].value for kind in ops["kind"].astype(str)])
    times = table.set_index(["stage", "code", "microbatch"])[["start_s", "end_s"]]
    keys = list(zip(program.stage.tolist(), program.kind.tolist(), program.microbatch.tolist(), strict=True))
    found = times.loc[keys]
    return found["start_s"].to_numpy(), found["end_s"].to_numpy()


def _no_costs(program: Program) -> Costs:
    """Only times were observed: no sizes, no hardware."""
    placement = program.placement
    return unit_costs(placement.stages, placement.ranks, 0.0, 0.0, 0.0, activation=0.0)


def _profile(medians: pd.DataFrame) -> pd.DataFrame:
    """Columns of a profile from columns F, I, W and B, one row per stage."""
    columns = {"stage": medians.index, "forward_s": medians["F"]}
    if medians[["I", "W"]].notna().all(axis=None):
        columns |= {"input_grad_s": medians["I"], "weight_grad_s": medians["W"]}
    else:
        columns |= {"backward_s": medians["B"].fillna(medians["I"] + medians["W"])}
    import pandas as pd

    return pd.DataFrame(columns).reset_index(drop=True)
