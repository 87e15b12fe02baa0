"""A config run for real: its program on PyTorch's own pipeline runtime, held against what was simulated.

What is replayed is the pipeline: compute ops and transfers between ranks. Data-parallel collectives, the
optimizer and memory are left out of both sides of the comparison. Ops sleep for their simulated time, scaled so
that a step takes a moderate time on one machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipesim import api
from pipesim.costs.costs import Costs, StageTimes
from pipesim.interop.torch_csv import Format, check
from pipesim.interop.torch_runtime import Job, Run, check_torch, run_on_torch
from pipesim.ir.connect import connect
from pipesim.ir.graph import OpGraph
from pipesim.ir.op import Kind
from pipesim.ir.program import Program
from pipesim.ir.timeline import PICOSECONDS, Timeline, to_picoseconds, to_seconds
from pipesim.lowering.bind import bind
from pipesim.metrics.collect import SCHEMA_VERSION, collect
from pipesim.metrics.observed import timeline_of
from pipesim.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipesim.config import Config

OP_S, LONGEST_S = 0.04, 10.0
"""Seconds that ops take on average, unless a step would then take longer than the second number. What the runtime
and a busy machine add to an op, half a millisecond to a few, should be small against it."""


@dataclass(frozen=True, eq=False)
class Replay:
    """One config, simulated and run.

    ``predicted`` and ``measured`` (its median step) are results on the replay's time scale, ``scale`` seconds
    for each second of the config; their ``gantt``, ``timeline`` and ``metrics`` are those of any result.
    ``overhead_s`` is what PyTorch's own overhead adds to the step: the simulated step when every op takes what a
    one-stage calibration measured on top, less ``predicted``.
    """

    predicted: Result
    measured: Result
    run: Run
    scale: float
    overhead_s: float

    @property
    def predicted_s(self) -> float:
        """Simulated step time."""
        return float(self.predicted.metrics["step_time_s"])

    @cached_property
    def measured_s(self) -> float:
        """Median of the measured step times."""
        return float(np.median(self.run.step_times_s))

    @property
    def error(self) -> float:
        """Measured over predicted step time, less one, without PyTorch's overhead per op."""
        return (self.measured_s - self.overhead_s) / self.predicted_s - 1.0

    def as_json(self) -> dict[str, Any]:
        """The numbers as plain data."""
        return {
            "scale": self.scale,
            "predicted_s": self.predicted_s,
            "measured_s": self.measured_s,
            "overhead_s": self.overhead_s,
            "error": self.error,
            "step_times_s": self.run.step_times_s.tolist(),
            "op_overhead_s": {kind.name: seconds for kind, seconds in self.run.overhead_s.items()},
            "predicted": self.predicted.metrics,
            "measured": self.measured.metrics,
        }

    def plot(self) -> Figure:
        """Both timelines, one above the other on one time axis."""
        from pipesim.report.figures import new_figure

        ranks = self.predicted.raw.graph.ranks
        figure = new_figure(10.0, min(0.34 * ranks, 6.4) * 2 + 2.4)
        upper, lower = figure.subplots(2, 1, sharex=True)
        self.predicted.gantt(upper, title=f"Predicted: {self.predicted_s:.4g} s", time_unit="s")
        self.measured.gantt(lower, title=f"Measured on PyTorch: {self.measured_s:.4g} s", time_unit="s", legend=False)
        latest = max(result.timeline["end_s"].max() for result in (self.predicted, self.measured))
        lower.set_xlim(0.0, float(latest))
        upper.set_xlabel("")
        return figure


def replay(
    config: Config | api.Source,
    *,
    steps: int = 5,
    op_s: float | None = None,
    to: Format = "torch-csv",
    profile: Path | None = None,
) -> Replay:
    """Run a config's program on PyTorch and compare.

    Args:
        steps: how many to measure, after one that is not.
        op_s: how long ops take on average; 40 ms by default, or less where a step would exceed 10 s.
        to: what PyTorch loads: compute ops, to which it adds communication, or all of it, as ``pipesim export``
            writes them.
        profile: an existing directory for one Kineto trace per rank, of one more step.

    Raises:
        TorchError: PyTorch is missing or fails, there are too many ranks, or a replay would take too long.
        PipesimError: PyTorch's runtime cannot run the schedule.
    """
    return replay_all([config], steps=steps, op_s=op_s, to=to, profile=profile)[0]


def replay_all(
    configs: Sequence[Config | api.Source],
    *,
    steps: int = 5,
    op_s: float | None = None,
    to: Format = "torch-csv",
    profile: Path | None = None,
) -> list[Replay]:
    """`replay` for several configs of equally many ranks, in the same processes."""
    check_torch()
    prepared = [_Prepared.of(api.plan(config), op_s) for config in configs]
    runs = run_on_torch([each.job(steps, to, profile) for each in prepared])
    return [each.compared(run) for each, run in zip(prepared, runs, strict=True)]


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A config's program, its costs at the replay's scale, and the step that they predict."""

    config: dict[str, Any]
    program: Program
    costs: Costs
    scale: float
    timeline: Timeline

    @classmethod
    def of(cls, plan: api.Plan, op_s: float | None) -> _Prepared:
        program, costs = plan.program(), pipeline_only(plan.costs)
        check(program)
        timeline = _run(_graph(program, costs))
        scale = _scale(timeline, op_s)
        scaled = scaled_costs(costs, scale)
        return cls(plan.config.resolved(), program, scaled, scale, _run(_graph(program, scaled)))

    def job(self, steps: int, to: Format, profile: Path | None) -> Job:
        program = self.program
        factor = np.where(_in_pair(program), self.costs.pair_factor, 1.0)
        forward, input_grad, weight_grad = (
            self.costs.at(partial(_stage_times, name=name), program.stage, program.microbatch)
            for name in ("forward", "input_grad", "weight_grad")
        )
        kind = program.kind
        first = np.select([kind == Kind.F, kind == Kind.W], [forward, weight_grad], input_grad)
        second = np.where(kind == Kind.B, weight_grad, 0.0)
        hops, size = self.costs.hops, float(self.costs.sizes.message.max(initial=0.0))
        hop_s = hops.latency_s + size * hops.seconds_per_byte
        return Job(program, first * factor, second * factor, hop_s, steps, to, profile)

    def compared(self, run: Run) -> Replay:
        middle = int(np.argsort(run.step_times_s, kind="stable")[(len(run.step_times_s) - 1) // 2])
        measured = timeline_of(self.timeline.graph, run.start_s[middle], run.end_s[middle])
        overhead = _with_overhead(self.timeline.graph, run).makespan - self.timeline.makespan
        return Replay(self._result(self.timeline), self._result(measured), run, self.scale, to_seconds(overhead))

    def _result(self, timeline: Timeline) -> Result:
        head = {"schema_version": SCHEMA_VERSION, "config": self.config}
        tail: dict[str, Any] = {"theory": None, "warnings": []}
        return Result({**head, **collect(timeline, self.costs, None), **tail}, timeline, self.costs)


def _stage_times(costs: Costs, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = getattr(costs.times, name)
    return values


def pipeline_only(costs: Costs) -> Costs:
    """The costs without collectives and optimizer; recomputation becomes part of the backward.

    All messages are as large as the mean micro-batch's.
    """
    message = costs.sizes.message

    def change(each: Costs) -> Costs:
        times = each.times
        simple = StageTimes.simple(times.forward, times.input_grad + times.recompute, times.weight_grad)
        sizes = replace(each.sizes, message=message)
        return replace(each, times=simple, sizes=sizes, gradient_buckets=None, sharing=None)

    return costs.changed(change)


def scaled_costs(costs: Costs, scale: float) -> Costs:
    """All times multiplied."""

    def change(each: Costs) -> Costs:
        times, hops = each.times, each.hops
        simple = StageTimes.simple(times.forward * scale, times.input_grad * scale, times.weight_grad * scale)
        slower = replace(hops, latency_s=hops.latency_s * scale, seconds_per_byte=hops.seconds_per_byte * scale)
        return replace(each, times=simple, hops=slower)

    return costs.changed(change)


def _graph(program: Program, costs: Costs) -> OpGraph:
    return bind(connect(program), costs)


def _run(graph: OpGraph) -> Timeline:
    from pipesim.engine import event

    return event.run(graph)


def _scale(timeline: Timeline, op_s: float | None) -> float:
    """Replayed seconds per second of the config."""
    duration = timeline.graph.duration
    ops = np.count_nonzero(duration) + np.count_nonzero(timeline.graph.paired)
    mean = int(duration.sum()) / ops
    if op_s is not None:
        return op_s / (mean / PICOSECONDS)
    return min(OP_S * PICOSECONDS / mean, LONGEST_S * PICOSECONDS / timeline.makespan)


def _with_overhead(graph: OpGraph, run: Run) -> Timeline:
    """The step when every op takes as much longer as the calibration measured."""
    extra = np.zeros(len(Kind))
    for kind, seconds in run.overhead_s.items():
        extra[kind] = seconds
    added = to_picoseconds(extra)[graph.kind]
    first = np.flatnonzero(graph.paired)
    added[first] += added[first + 1]
    added[first + 1] = 0
    return _run(graph.bound(np.maximum(graph.duration + added, 0), graph.dep_lag))


def _in_pair(program: Program) -> np.ndarray:
    member = program.paired.copy()
    member[1:] |= program.paired[:-1]
    return member
