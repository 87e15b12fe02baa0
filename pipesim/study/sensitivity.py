"""What would bring more speed: if some part of the step took less time, how much shorter would the step be?

Two answers side by side. From the critical path: the time that the path itself would save, which is the derivative
of the step time. Re-simulated: what is left of that once other chains of ops have become critical. With the order
of ops fixed and an ideal network, the step time is the longest of many sums, so it is convex in the durations, and
shrinking some of them never brings more than the path promises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import Costs
from pipesim.ir.graph import OpGraph
from pipesim.ir.timeline import Timeline, to_seconds
from pipesim.lowering.bind import Binder, traffic
from pipesim.metrics.critical import critical_chain
from pipesim.result import Result

Picoseconds = NDArray[np.int64]
Change = Callable[[Costs], Costs]

RANKS = 8
"""Ranks that are re-simulated: those with the most time on the critical path."""

WORK = ("forward", "input_grad", "weight_grad", "recompute", "overlap")
"""Times of a stage's ops; the overlap is what a full backward takes less than its halves."""


@dataclass(frozen=True)
class Sensitivity:
    """How much shorter the step gets when ``what`` takes less time, in seconds.

    ``first_order_s``: by the critical path, exact as long as that stays critical, and on an ideal network never
    less than ``gain_s``: by simulating again. The latter is None for ranks beyond the most important ones.
    """

    what: str
    first_order_s: float
    gain_s: float | None

    def as_json(self) -> dict[str, str | float | None]:
        """Plain data."""
        return {"what": self.what, "first_order_s": self.first_order_s, "gain_s": self.gain_s}


def sensitivities(result: Result, less: float = 0.1, ranks: int = RANKS) -> list[Sensitivity]:
    """What it would bring if one part after the other took ``less`` of its time less (0.1: 10 %).

    Kinds of work and communication first, then the first and the last stage, then every rank's compute stream;
    parts that take no time are left out. The order of ops stays as it is, also for schedules that look at costs.
    """
    step = _Step(result.raw, result.costs)
    parts = [step.compare(what, *step.bound(costs)) for what, costs in cheaper(result.costs, less)]
    promised = step.by_rank(less)
    chosen = set(np.argsort(-promised, kind="stable")[:ranks].tolist())
    rows = [step.of_rank(rank, less, int(promised[rank]), rank in chosen) for rank in range(len(promised))]
    return parts + rows


def cheaper(costs: Costs, less: float) -> Iterator[tuple[str, Costs]]:
    """The costs with one part after the other reduced; parts that cost nothing are left out."""
    for what, change in _changes(costs, less):
        yield what, costs.changed(change)


def _changes(costs: Costs, less: float) -> Iterator[tuple[str, Change]]:
    times, hops = costs.times, costs.hops
    kinds = {
        "forward": ("forward",),
        "backward": ("input_grad", "weight_grad", "overlap"),
        "backward for the input": ("input_grad",),
        "backward for the weights": ("weight_grad",),
        "recomputation": ("recompute",),
        "gradient reductions": ("reduce_grad",),
        "weight gathers": ("unshard",),
        "optimizer": ("optimizer",),
        "recovery of older weights": ("reconstruct",),
    }
    for what, names in kinds.items():
        if any(getattr(times, name).any() for name in names):
            yield what, partial(_scaled, factors=dict.fromkeys(names, 1.0 - less))
    if any(getattr(times, f"{name}_collective").any() for name in WORK):
        yield "collectives inside ops", partial(_without_collectives, less=less)
    if hops.latency_s.any() or (hops.seconds_per_byte.any() and costs.sizes.message.any()):
        yield "transfers between ranks", partial(_faster_hops, less=less)
    if costs.host is not None and (costs.host.offload_s.any() or costs.host.reload_s.any()):
        yield "copies to host memory and back", partial(_faster_copies, less=less)
    for what, stage in (("first stage", 0), ("last stage", costs.stages - 1)):
        share = np.where(np.arange(costs.stages) == stage, 1.0 - less, 1.0)
        yield what, partial(_scaled, factors=dict.fromkeys(WORK, share))


def _scaled(costs: Costs, factors: Mapping[str, float | NDArray[np.float64]]) -> Costs:
    times = costs.times
    return replace(costs, times=replace(times, **{name: getattr(times, name) * by for name, by in factors.items()}))


def _without_collectives(costs: Costs, less: float) -> Costs:
    """Ops without a share of the communication inside them."""
    times = costs.times
    left = {name: getattr(times, name) - less * getattr(times, f"{name}_collective") for name in WORK}
    return replace(costs, times=replace(times, **left))


def _faster_hops(costs: Costs, less: float) -> Costs:
    hops = costs.hops
    latency, rate = hops.latency_s * (1.0 - less), hops.seconds_per_byte * (1.0 - less)
    return replace(costs, hops=replace(hops, latency_s=latency, seconds_per_byte=rate))


def _faster_copies(costs: Costs, less: float) -> Costs:
    assert costs.host is not None
    out, back = costs.host.offload_s * (1.0 - less), costs.host.reload_s * (1.0 - less)
    return replace(costs, host=replace(costs.host, offload_s=out, reload_s=back))


class _Step:
    """A simulated step, ready to be bound and simulated again."""

    def __init__(self, timeline: Timeline, costs: Costs) -> None:
        self.timeline, self.graph, self.costs = timeline, timeline.graph, costs
        self.nodes, self.edges = critical_chain(timeline)
        self._binder = Binder(timeline.graph)

    def bound(self, costs: Costs) -> tuple[OpGraph, Costs]:
        """The graph with other costs."""
        return self._binder.bind(costs), costs

    def compare(self, what: str, graph: OpGraph, costs: Costs) -> Sensitivity:
        """What the path saves on a graph with other durations, and what the step does."""
        return Sensitivity(what, to_seconds(self._saved(graph)), to_seconds(self._gain(graph, costs)))

    def by_rank(self, less: float) -> Picoseconds:
        """What the path saves when one rank's compute stream is faster, for every rank; shape (P,)."""
        everywhere = self._faster(slice(0, self.graph.compute_nodes), less)
        saved = np.zeros(self.graph.ranks, np.int64)
        for change, node in (
            (self.graph.duration[self.nodes] - everywhere.duration[self.nodes], self.nodes),
            (self.graph.dep_lag[self.edges] - everywhere.dep_lag[self.edges], self.graph.dep_node[self.edges]),
        ):
            own = change != 0
            np.add.at(saved, self._rank[node[own]], change[own])
        return saved

    def of_rank(self, rank: int, less: float, promised: int, simulated: bool) -> Sensitivity:
        """One rank; without a promise there is no gain, which needs no simulation."""
        gain = 0 if not promised else None
        if promised and simulated:
            nodes = slice(int(self.graph.starts[rank]), int(self.graph.starts[rank + 1]))
            gain = self._gain(self._faster(nodes, less), self.costs)
        return Sensitivity(f"rank {rank}", to_seconds(promised), None if gain is None else to_seconds(gain))

    @cached_property
    def _rank(self) -> NDArray[np.int32]:
        return self.graph.rank

    def _faster(self, nodes: slice, less: float) -> OpGraph:
        duration = self.graph.duration.copy()
        duration[nodes] = np.rint(duration[nodes] * (1.0 - less)).astype(np.int64)
        return self.graph.bound(duration, self._binder.lags(self.costs, duration))

    def _saved(self, graph: OpGraph) -> int:
        """How much shorter the critical path of before is with other durations, in picoseconds."""
        ops = self.graph.duration[self.nodes] - graph.duration[self.nodes]
        lags = self.graph.dep_lag[self.edges] - graph.dep_lag[self.edges]
        return int(ops.sum() + lags.sum())

    def _gain(self, graph: OpGraph, costs: Costs) -> int:
        if self.timeline.arrived is not None:
            from pipesim.engine import fifo

            return self.timeline.makespan - fifo.run(graph, traffic(graph, costs)).makespan
        from pipesim.engine import compiled

        return self.timeline.makespan - compiled.run(graph).makespan
