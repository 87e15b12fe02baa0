"""The one place that wires a config to a result. Config types go no further than here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipesim.costs.costs import Costs
from pipesim.errors import ConfigError, Problem, ScheduleError
from pipesim.ir.graph import OpGraph
from pipesim.ir.placement import Placement
from pipesim.ir.program import Program
from pipesim.ir.timeline import Timeline
from pipesim.lowering.bind import bind, traffic
from pipesim.lowering.lower import Lowering, lower
from pipesim.metrics.collect import SCHEMA_VERSION, Work, collect, report
from pipesim.metrics.summary import summarize
from pipesim.pricing import links_of, step_costs
from pipesim.result import Result
from pipesim.schedules.base import Schedule, Setting, Theory

if TYPE_CHECKING:
    from pipesim.config import Config
    from pipesim.extrapolation import Extrapolation

MAX_EVENTS = 10**7
"""Largest number of F, I and W ops for the event engine: half a minute and 3 GB on one core of an EPYC; the compiled
engine takes a hundredth of that time."""

Source = str | os.PathLike[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """A config made concrete: the schedule, what it is asked for, and what everything costs.

    ``notes``: what was decided on the way that the user should know.
    """

    config: Config
    schedule: Schedule
    setting: Setting
    costs: Costs
    work: Work | None
    notes: tuple[str, ...] = ()

    def resized(self, microbatches: int) -> Plan:
        """The same plan for another number of micro-batches."""
        self.schedule.check(self.setting.ranks, microbatches)
        return replace(self, setting=replace(self.setting, microbatches=microbatches))

    def program(self) -> Program:
        """The ops of every rank. Raises ConfigError where the schedule finds no order for these costs."""
        with _config_errors(self.config):
            return self.schedule.program(self.setting)

    def graph(self) -> OpGraph:
        """The bound op graph of the step. Raises ConfigError where the schedule cannot run at these costs."""
        program = self.program()
        with _config_errors(self.config):
            return bind(lower(program, self.costs, self.lowering(program)), self.costs)

    def lowering(self, program: Program) -> Lowering:
        """What lowering adds for this config and schedule."""
        training = getattr(self.config, "training", None)
        return Lowering(
            p2p=self.config.simulation.p2p,
            zero=training.zero if training is not None else 0,
            data_overlap=training.data_overlap if training is not None else "gradients",
            synchronous=self.schedule.synchronous_optimizer,
            triggers=self.schedule.gradient_triggers(program),
            blocking_reductions=self.schedule.blocking_reductions,
            paired_exchanges=self.schedule.paired_exchanges,
            weights=self.schedule.weight_policy,
            second_engine=self.schedule.second_engine,
            offload=self.schedule.offloading,
        )


@contextmanager
def _config_errors(config: Config) -> Iterator[None]:
    """What a schedule finds wrong is wrong with the config: the error says in which, and where."""
    try:
        yield
    except ScheduleError as error:
        raise ConfigError([Problem("schedule", str(error))], config.source) from None


def load(source: Source, overrides: Sequence[str] = ()) -> Config:
    """Read and check a config from a YAML file or a mapping; ``overrides`` are ``path=value`` strings.

    Raises:
        ConfigError: with everything that is wrong.
    """
    from pipesim.config import load_config

    return load_config(source, overrides)


def plan(config: Config | Source) -> Plan:
    """The schedule and the costs of a config.

    Raises:
        ConfigError: the numbers of the config do not go together.
    """
    if isinstance(config, str | os.PathLike | Mapping):
        config = load(config)
    from pipesim import pricing

    ranks, microbatches = config.ranks, config.microbatches
    with _config_errors(config):
        schedule = pricing.fitted(config)
        schedule.check(ranks, microbatches)
        placement = schedule.placement(ranks)
        config, notes = _decided(config, schedule)
    costs, work = _costs(config, placement)
    return Plan(config, schedule, Setting(ranks, microbatches, step_costs(costs)), costs, work, tuple(notes))


def _decided(config: Config, schedule: Schedule) -> tuple[Config, list[str]]:
    """The config with whatever it leaves open decided."""
    if isinstance(getattr(getattr(config, "training", None), "partition", None), str):
        from pipesim.balancing import decided

        return decided(config, schedule)  # type: ignore[arg-type]
    return config, []


def _costs(config: Config, placement: Placement) -> tuple[Costs, Work | None]:
    from pipesim import pricing

    costs, work = pricing.costs_of(config, placement)
    return replace(costs, pair_factor=config.simulation.pair_factor), work


def program(config: Config | Source) -> Program:
    """The program of a config, without simulating it."""
    return plan(config).program()


def simulate(config: Config | Source, *, engine: str | None = None) -> Result:
    """Simulate one training step.

    ``engine``: ``event`` or ``compiled``; the config's choice when None.

    Raises:
        ConfigError: the config cannot be used; with everything that is wrong.
    """
    return simulate_plan(plan(config), engine)


def simulate_plan(plan: Plan, engine: str | None = None) -> Result:
    """Simulate one step of a plan."""
    metrics, costs, timeline, notes = _evaluate(plan, engine or plan.config.simulation.engine)
    theory = plan.schedule.theory(plan.setting)
    head = {"schema_version": SCHEMA_VERSION, "config": plan.config.resolved()}
    unknown = [] if metrics["asynchronous"] is None else [metrics["asynchronous"]["reason"]]
    tail = {
        "links": links_of(plan.config),
        "theory": _plain_theory(theory),
        "warnings": [*plan.config.notes(), *plan.notes, *notes, *unknown],
    }
    return Result({**head, **metrics, **tail}, timeline, costs)


def _evaluate(plan: Plan, engine: str) -> tuple[dict[str, Any], Costs, Timeline, list[str]]:
    """Metrics and the costs they are for; the timeline, or that of a shorter step; and notes on how they were made."""
    notes = []
    if plan.config.simulation.extrapolate and plan.costs.variants is not None:
        notes.append("not extrapolated: micro-batches are not all alike, so that all were simulated")
    elif plan.config.simulation.extrapolate:
        found = _extrapolate(plan, engine)
        if not isinstance(found, str):
            metrics = report(found.summary, plan.costs, plan.work)
            return {**metrics, "asynchronous": None, "offload": None}, plan.costs, found.timeline, [found.note()]
        notes.append(f"not extrapolated: {found}, so that all micro-batches were simulated")
    _check_events(plan, engine)
    timeline, more = run_engine(plan.graph(), plan, engine)
    metrics, costs = _metrics(timeline, plan)
    return metrics, costs, timeline, [*notes, *more, *_offload_notes(metrics, plan)]


def _check_events(plan: Plan, engine: str) -> None:
    """Refuse what the event engine would take hours for; the compiled one only knows the ideal network."""
    size = plan.schedule.size(plan.setting.ranks, plan.setting.microbatches)
    network = plan.config.simulation.network
    if size.ops <= MAX_EVENTS or (engine == "compiled" and network == "ideal"):
        return
    near = "simulation.engine: compiled" if network == "ideal" else "simulation.network: ideal with engine: compiled"
    allowed = f"at most {MAX_EVENTS:.0e} ops: fewer micro-batches, ranks, or chunks or waves per rank"
    problem = Problem("simulation.engine", "too large for the event engine", str(size), allowed, near)
    raise ConfigError([problem], plan.config.source)


def _metrics(timeline: Timeline, plan: Plan) -> tuple[dict[str, Any], Costs]:
    """Metrics, and the costs with all copies of the weights that the run needs."""
    if not timeline.graph.has_updates:
        metrics = {**collect(timeline, plan.costs, plan.work), "asynchronous": None}
        return _with_offload(metrics, timeline, plan), plan.costs
    from pipesim.metrics.asynchronous import collect_asynchronous

    metrics, costs = collect_asynchronous(timeline, plan.costs, plan.work, plan.schedule.weight_policy)
    return {**metrics, "offload": None}, costs


def _with_offload(metrics: dict[str, Any], timeline: Timeline, plan: Plan) -> dict[str, Any]:
    """What copies to the host take; a plan has to fit in host memory as well."""
    if plan.schedule.offloading is None:
        return {**metrics, "offload": None}
    from pipesim.metrics.offload import offload_section

    section = offload_section(timeline, plan.costs)
    memory = metrics["memory"]
    if section is not None and section["host_fits"] is False:
        memory = {**memory, "fits": False}
    return {**metrics, "memory": memory, "offload": section}


def _offload_notes(metrics: dict[str, Any], plan: Plan) -> list[str]:
    """Offloading that was asked for and does not take place."""
    if plan.schedule.offloading is None or metrics["offload"] is not None:
        return []
    from pipesim.metrics.offload import shortest_round_trip

    trip_s = shortest_round_trip(plan.costs)
    takes = f"a copy out and back takes {trip_s:.3g}{'' if plan.work is None else ' s'} or more, and "
    return [
        f"nothing is offloaded: {takes if trip_s else ''}no activation is held long enough to be copied out and back"
    ]


def _extrapolate(plan: Plan, engine: str) -> Extrapolation | str:
    """The summary of the whole step from shorter ones, or why there is none."""
    from pipesim.extrapolation import extrapolate

    if plan.config.simulation.network != "ideal":
        return "transfers share links"
    if plan.schedule.offloading is not None:
        return "copies to the host share links"
    if plan.schedule.searched:
        return f"{plan.schedule.name} may find another order for more micro-batches"
    found = extrapolate(
        plan.schedule,
        plan.setting.ranks,
        plan.setting.microbatches,
        lambda microbatches: plan.resized(microbatches).graph(),
        lambda graph: run_engine(graph, plan, engine)[0],
        lambda timeline: summarize(timeline, plan.costs),
    )
    if found is not None:
        return found
    if plan.program().has_updates:
        return "without a flush the steady rate is what more micro-batches would bring"
    return "no steady state was found"


def run_engine(graph: OpGraph, plan: Plan, engine: str) -> tuple[Timeline, list[str]]:
    """The timeline, and what the user should know about how it was made."""
    from pipesim.engine import event, fair, fifo

    network = plan.config.simulation.network
    if network != "ideal":
        note = f"network {network} needs the event engine; it was used instead of the compiled one"
        run = {"fifo": fifo.run, "fair": fair.run}[network]
        return run(graph, traffic(graph, plan.costs)), [note] if engine == "compiled" else []
    if engine == "compiled":
        from pipesim.engine import compiled

        return compiled.run(graph), []
    return event.run(graph), []


def _plain_theory(theory: Theory | None) -> dict[str, Any] | None:
    if theory is None:
        return None
    peaks = theory.peak_in_flight
    return {
        "source": theory.source,
        "bubble_fraction": theory.bubble_fraction,
        "peak_in_flight": None if peaks is None else [float(peak) for peak in peaks],
    }
