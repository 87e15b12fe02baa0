"""One schedule shape, priced again and again: programs are lowered once, then only durations are bound.

Structures are kept only in a `StructureCache` that the caller makes and bounds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipesim.api import Plan
from pipesim.costs.costs import Costs
from pipesim.ir.program import Program
from pipesim.ir.timeline import Timeline
from pipesim.lowering.bind import Binder
from pipesim.lowering.lower import Lowering, lower, shape, shaping
from pipesim.schedules.base import Setting, StepCosts

if TYPE_CHECKING:
    from pipesim.engine.batch import Batch

Picoseconds = NDArray[np.int64]


class Structure:
    """The graph of a step, ready for any costs with the same `shape` as those it was made with.

    All evaluations are the compiled engine's, on an ideal network.
    """

    def __init__(self, program: Program, costs: Costs, lowering: Lowering | None = None) -> None:
        if lowering is not None and lowering.offload:
            raise ValueError("where offloaded activations go depends on all costs, so that others cannot be bound")
        self.graph = lower(program, costs, lowering)
        self.shape = shape(costs)
        self._seen = shaping(costs)
        self._binder = Binder(self.graph)
        some = np.diff(self.graph.starts) > 0
        self._heads, self._tails = self.graph.starts[:-1][some], self.graph.starts[1:][some] - 1

    def run(self, costs: Costs) -> Timeline:
        """The timeline under these costs.

        Raises:
            ValueError: with these costs the step has other ops.
            DeadlockError: some streams wait for each other.
        """
        from pipesim.engine import compiled

        return compiled.run(self.graph.bound(*self.durations(costs)))

    def makespan(self, costs: Costs) -> int:
        """The step time in picoseconds; otherwise as `run`."""
        from pipesim.engine import compiled

        duration, lag = self.durations(costs)
        end = compiled.ends(self.graph, duration, lag)
        return int(end[self._tails].max() - (end[self._heads] - duration[self._heads]).min())

    def durations(self, costs: Costs) -> tuple[Picoseconds, Picoseconds]:
        """Durations of all nodes (n,) and lags of all dependencies (m,): a row to vary for `makespans`.

        Raises:
            ValueError: with these costs the step has other ops.
        """
        if costs.variants is not None and len(costs.variants.of) != self.graph.microbatches:
            found, needed = len(costs.variants.of), self.graph.microbatches
            raise ValueError(f"these costs are those of {found} micro-batches; the structure has {needed}")
        self._check_shape(costs)
        duration = self._binder.durations(costs)
        return duration, self._binder.lags(costs, duration)

    def _check_shape(self, costs: Costs) -> None:
        """Raise ValueError unless these costs give the step the same ops; quick where the same arrays come again."""
        given = shaping(costs)
        if all(new is old for new, old in zip(given, self._seen, strict=True)):
            return
        if shape(costs) != self.shape:
            raise ValueError("these costs have other recomputations, collectives or optimizer steps than the structure")
        self._seen = given

    def makespans(self, durations: Picoseconds, lags: Picoseconds) -> Picoseconds:
        """Step times for many durations (K, n), with one row of lags for all (m,) or one each (K, m)."""
        return self._batch.makespans(durations, lags)

    @cached_property
    def _batch(self) -> Batch:
        from pipesim.engine.batch import Batch

        return Batch(self.graph)


class StructureCache:
    """The ``size`` most recently used structures."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._structures: OrderedDict[Hashable, Structure] = OrderedDict()
        self._ordered_by_costs: set[Hashable] = set()

    def __len__(self) -> int:
        return len(self._structures)

    def of(self, plan: Plan) -> Structure:
        """The structure of a plan, from the cache where a plan of equal structure has been there before."""
        key = self._key(plan)
        if key not in self._structures:
            made, looked_at_costs = _make(plan)
            if looked_at_costs:
                self._ordered_by_costs.add(_order_key(plan))
                key = self._key(plan)
            self._structures[key] = made
            if len(self._structures) > self.size:
                self._structures.popitem(last=False)
        self._structures.move_to_end(key)
        return self._structures[key]

    def _key(self, plan: Plan) -> Hashable:
        order = _order_key(plan)
        costs = _fingerprint(plan.setting.costs) if order in self._ordered_by_costs else None
        training = getattr(plan.config, "training", None)
        return order, costs, plan.config.simulation.p2p, training.zero if training else 0, shape(plan.costs)


def _order_key(plan: Plan) -> Hashable:
    return plan.schedule, plan.setting.ranks, plan.setting.microbatches


def _fingerprint(costs: StepCosts | None) -> Hashable:
    values = () if costs is None else tuple(getattr(costs, field.name) for field in fields(costs))
    return tuple(value.tobytes() if isinstance(value, np.ndarray) else value for value in values)


def _make(plan: Plan) -> tuple[Structure, bool]:
    """The structure of a plan, and whether its schedule looked at the costs to order the ops."""
    watched = _WatchedSetting(**{f.name: getattr(plan.setting, f.name) for f in fields(plan.setting)})
    program = plan.schedule.program(watched)
    return Structure(program, plan.costs, plan.lowering(program)), bool(watched.looks)


class _WatchedSetting(Setting):
    """A setting that notices when somebody looks at its costs."""

    @cached_property
    def looks(self) -> list[str]:
        return []

    def __getattribute__(self, name: str) -> Any:
        if name == "costs":
            self.looks.append(name)
        return super().__getattribute__(name)
