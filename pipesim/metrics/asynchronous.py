"""The result of a run without a flush: a steady rate instead of bubbles, and what that costs in weights.

The result JSON then has ``bubble_fraction``, ``bubble_overhead`` and ``span_bubble_fraction`` (of the run and of
its ranks) null, because they would only say how short the simulated stretch is; ``throughput`` is over the whole
stretch, filling and draining included. In their place it has ``asynchronous`` (null for all other schedules):

* ``reason``: why the bubble measures are null.
* ``weights``: how backwards get at the weights of their forwards, `pipesim.ir.updates.WeightPolicy`.
* ``microbatches_per_update``: micro-batches per optimizer step of a stage.
* ``fill_s``, ``drain_s``: until every rank has finished a backward; from when some rank has no forwards left.
* ``steady``: a window between these, null when none is long enough: ``begin_s`` (from the run's start), ``end_s``,
  ``microbatches`` finished in it, ``period_s`` per micro-batch, ``throughput`` as for a step, ``utilisation`` of
  each rank's compute stream, ``update_utilisation`` of its second engine (null without one).
* ``stages``: per stage and rank, in that order: ``stage``, ``rank``; ``staleness``, the largest number of updates
  between the weights that a micro-batch used and those to which its gradient was applied (reached once the
  pipeline is full), and ``mean_staleness`` over all micro-batches; ``versions`` of the weights kept at once;
  ``extra_weights_bytes`` for what is kept besides one copy, which is part of each rank's ``weights_bytes``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pipesim.costs.costs import Costs
from pipesim.ir.graph import COMPUTE, UPDATE
from pipesim.ir.op import COMPUTE_KINDS
from pipesim.ir.timeline import Timeline, to_seconds
from pipesim.ir.updates import WeightPolicy
from pipesim.metrics import beside, steady
from pipesim.metrics.collect import Work, collect, throughput
from pipesim.metrics.versions import StageVersions, versions, with_copies

REASON = (
    "no bubble measures: the pipeline is not flushed between optimizer steps, so idle time is that of filling and "
    "draining, whose share depends on how many micro-batches are simulated; see the steady rate"
)
BUBBLES = ("bubble_fraction", "bubble_overhead", "span_bubble_fraction")


def collect_asynchronous(
    timeline: Timeline, costs: Costs, work: Work | None, policy: WeightPolicy
) -> tuple[dict[str, Any], Costs]:
    """Metrics of a run without a flush, and its costs with every copy of the weights in them."""
    found = versions(timeline, policy)
    held = with_copies(costs, found)
    metrics = collect(timeline, held, work)
    metrics |= dict.fromkeys(BUBBLES)
    for rank in metrics["ranks"]:
        rank["bubble_fraction"] = None
    if beside.works_beside(timeline.graph):
        _on_two_engines(timeline, metrics)
    metrics["asynchronous"] = _section(timeline, found, costs, work, policy)
    return metrics, held


def _on_two_engines(timeline: Timeline, metrics: dict[str, Any]) -> None:
    """What the compute streams alone do not tell."""
    compute = np.isin(timeline.graph.kind, COMPUTE_KINDS)
    makespan = int(timeline.end[compute].max() - timeline.start[compute].min())
    metrics["compute_makespan_s"] = to_seconds(makespan)
    for rank, peak in zip(metrics["ranks"], beside.in_flight(timeline).tolist(), strict=True):
        rank["peak_in_flight"] = peak


def _section(
    timeline: Timeline, found: list[StageVersions], costs: Costs, work: Work | None, policy: WeightPolicy
) -> dict[str, Any]:
    phases = steady.phases(timeline)
    return {
        "reason": REASON,
        "weights": policy.value,
        "microbatches_per_update": phases.microbatches_per_update,
        "fill_s": to_seconds(phases.fill),
        "drain_s": to_seconds(phases.drain),
        "steady": None if phases.steady is None else _steady(timeline, phases.steady, work),
        "stages": [_stage(one, costs) for one in sorted(found, key=lambda one: (one.stage, one.rank))],
    }


def _steady(timeline: Timeline, window: steady.Window, work: Work | None) -> dict[str, Any]:
    period_s = to_seconds(window.end - window.begin) / window.microbatches
    origin = int(timeline.start.min())
    return {
        "begin_s": to_seconds(window.begin - origin),
        "end_s": to_seconds(window.end - origin),
        "microbatches": window.microbatches,
        "period_s": period_s,
        "throughput": throughput(period_s, None if work is None else _share(work, timeline.graph.microbatches)),
        "utilisation": steady.utilisation(timeline, window, COMPUTE),
        "update_utilisation": steady.utilisation(timeline, window, UPDATE),
    }


def _share(work: Work, microbatches: int) -> Work:
    """The work of one micro-batch."""
    parts = ("samples", "tokens", "model_flops", "hardware_flops")
    return replace(work, **{name: getattr(work, name) / microbatches for name in parts})


def _stage(one: StageVersions, costs: Costs) -> dict[str, Any]:
    return {
        "stage": one.stage,
        "rank": one.rank,
        "staleness": int(one.staleness.max(initial=0)),
        "mean_staleness": float(one.staleness.mean()) if len(one.staleness) else 0.0,
        "versions": one.versions,
        "extra_weights_bytes": float(costs.sizes.weights[one.stage] * (one.copies - 1)),
    }
