"""Several plans side by side: one table, one figure with all timelines on the same time axis."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipesim.errors import ConfigError, PipesimError
from pipesim.report.heading import microbatches

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from pipesim.config import Config
    from pipesim.result import Result

Source = str | os.PathLike[str] | Mapping[str, Any]
Schedule = str | Mapping[str, Any]
"""As in a config: a name, or a mapping of ``name`` and options."""

_TIMES = ("step_time_s", "bubble_fraction", "bubble_overhead", "span_bubble_fraction")
_RATES = ("tokens_per_s", "tokens_per_s_per_gpu", "model_tflops_per_gpu", "hardware_tflops_per_gpu", "mfu")


@dataclass(frozen=True)
class Plan:
    """One row: a result, or why there is none. ``settings`` are the values that a sweep chose for it."""

    label: str
    result: Result | None
    error: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The metrics, or the error, as plain data."""
        metrics = self.result.metrics if self.result is not None else None
        return {"label": self.label, "metrics": metrics, "error": self.error}

    @property
    def flushed(self) -> bool:
        """Whether every step ends before the next begins; True for a plan that cannot run."""
        return self.result is None or self.result.metrics["asynchronous"] is None

    @property
    def microbatch_s(self) -> float | None:
        """Seconds per micro-batch: of the step, or of the steady state, if one is reached, where there is no flush."""
        if self.result is None:
            return None
        steady = None if self.flushed else self.result.metrics["asynchronous"]["steady"]
        if self.flushed:
            return float(self.result.metrics["step_time_s"]) / microbatches(self.result.metrics["config"])
        return None if steady is None else float(steady["period_s"])

    def row(self) -> dict[str, Any]:
        """The numbers of a comparison, of this plan alone; ``None`` where there is none."""
        if self.result is None:
            return {"label": self.label, **self.settings, "error": self.error}
        metrics = self.result.metrics
        throughput, memory = metrics.get("throughput") or {}, metrics["memory"]
        return {
            "label": self.label,
            "schedule": metrics["config"]["schedule"]["name"],
            **self.settings,
            **{key: metrics[key] for key in _TIMES},
            "peak_in_flight": max(rank["peak_in_flight"] for rank in metrics["ranks"]),
            **{key: memory[key] for key in ("peak_bytes", "capacity_bytes", "fits")},
            **{key: throughput.get(key) for key in _RATES},
            "error": None,
        }


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Plans in the order they were given; plans that do not fit, or cannot run, stay in it."""

    plans: Sequence[Plan]

    @property
    def results(self) -> list[Result]:
        """The results there are."""
        return [plan.result for plan in self.plans if plan.result is not None]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One mapping per plan; ``speedup`` is relative to the first plan that ran.

        It is that of the step; with a plan without a flush among them, it is that of ``microbatch_s``, which all rows
        then have, because filling and draining such a plan is no part of its steps.
        """
        times = [self._time_s(plan) for plan in self.plans]
        first = next((time for plan, time in zip(self.plans, times, strict=True) if plan.result is not None), None)
        speeds = [first / time if first and time else None for time in times]
        return [self._row(plan, speed) for plan, speed in zip(self.plans, speeds, strict=True)]

    def _time_s(self, plan: Plan) -> float | None:
        """What the speed of a plan is taken from."""
        if self._flushed and plan.result is not None:
            return float(plan.result.metrics["step_time_s"])
        return plan.microbatch_s

    def _row(self, plan: Plan, speed: float | None) -> dict[str, Any]:
        row = plan.row()
        if plan.result is not None:
            row["speedup"] = speed
        return row if self._flushed else {**row, "microbatch_s": plan.microbatch_s}

    @property
    def _flushed(self) -> bool:
        return all(plan.flushed for plan in self.plans)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The rows as a tidy table, one per plan, indexed by label."""
        import pandas as pd

        return pd.DataFrame(self.rows).set_index("label")

    def as_json(self) -> dict[str, Any]:
        """All metrics as plain data."""
        return {"schema_version": 1, "plans": [plan.as_json() for plan in self.plans]}

    def plot(self) -> Figure:
        """One Gantt chart per plan, stacked, on one time axis, beside bars for bubble and memory."""
        from pipesim.report.compare import Run, figure

        shown = [(plan.label, plan.result) for plan in self.plans if plan.result is not None]
        return figure([Run(label, r.metrics, r.timeline, r.memory) for label, r in shown])

    def _readable(self) -> pd.DataFrame:
        """What ``pipesim compare`` prints, as text in cells."""
        import pandas as pd

        from pipesim.report.comparison_table import table

        headings, cells = table(self.rows)
        shown = pd.DataFrame(cells, columns=headings).set_index(headings[0])
        reasons = [plan.error or "" for plan in self.plans]
        return shown.assign(**{"cannot run": reasons}) if any(reasons) else shown

    def __repr__(self) -> str:
        return self._readable().to_string(max_colwidth=60)

    def _repr_html_(self) -> str:
        return self._readable().to_html()


def compare(
    configs: Config | Source | Iterable[Config | Source],
    schedules: Sequence[Schedule] | Mapping[str, Schedule] | None = None,
    overrides: Sequence[str] = (),
    labels: Sequence[str] | None = None,
    *,
    engine: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Simulate one config or several, or each of them with every one of ``schedules``.

    A schedule is a name, which takes over the options of the config's own schedule, or a mapping of ``name`` and
    options as in a config; a mapping of labels to schedules names the rows. ``overrides`` are ``path=value`` strings
    for all of them. ``labels`` default to the schedules' names, or to the files' names where the schedule is the
    same. ``engine`` as in `pipesim.simulate`. All configs are read before anything is simulated. ``progress`` is
    called with how many plans are done, and of how many.

    A plan that its schedule cannot run becomes a row that says why. Raises ConfigError for any other error in a
    config, ScheduleError for an unknown schedule, and PipesimError where only some of the configs have a cluster.
    """
    several = _listed(configs)
    wanted = list(schedules.values()) if isinstance(schedules, Mapping) else schedules
    loaded = [one for config in several for one in _loaded(config, wanted, overrides)]
    _check_units(loaded)
    if labels is None:
        asked = list(schedules) if isinstance(schedules, Mapping) else [name_of(one) for one in wanted or ()]
        labels = _labels(loaded, asked * len(several))
    plans = []
    for label, one in zip(labels, loaded, strict=True):
        plans.append(_simulated(label, one, engine))
        if progress is not None:
            progress(len(plans), len(loaded))
    return Comparison(plans)


def _listed(configs: Config | Source | Iterable[Config | Source]) -> list[Config | Source]:
    from pipesim.config import AbstractConfig, ClusterConfig

    one = isinstance(configs, str | os.PathLike | Mapping | AbstractConfig | ClusterConfig)
    return [configs] if one else list(configs)  # type: ignore[list-item, arg-type]


def _check_units(plans: Sequence[Config | _Refused]) -> None:
    """Plain numbers are not to be held against seconds and bytes.

    Raises:
        PipesimError: some plans have a cluster and some are abstract; the message names one of each.
    """
    from pipesim.config import AbstractConfig, ClusterConfig

    first = {type(plan): index for index, plan in reversed(list(enumerate(plans)))}
    if AbstractConfig in first and ClusterConfig in first:
        abstract, real = (
            plans[first[form]].source or f"config {first[form] + 1}" for form in (AbstractConfig, ClusterConfig)
        )
        raise PipesimError(
            f"{abstract} has costs in plain numbers, without a cluster, and {real} has seconds and bytes on a cluster: "
            "they have no unit in common; compare them apart"
        )


def name_of(value: Any) -> Any:
    """What stands for a value in a table: a section of a config is named by what is in it."""
    if not isinstance(value, Mapping):
        return value
    name = next((str(value[key]) for key in ("name", "base") if key in value), "")
    rest = ", ".join(f"{key} {part}" for key, part in value.items() if key not in ("name", "base"))
    return f"{name} ({rest})" if name and rest else name or rest


@dataclass(frozen=True)
class _Refused:
    """A schedule that cannot run the numbers of a config."""

    schedule: str
    source: str | None
    error: ConfigError


def _loaded(
    config: Config | Source, schedules: Sequence[Schedule] | None, overrides: Sequence[str]
) -> list[Config | _Refused]:
    from pipesim.config import load_config

    if schedules is not None:
        source = config if isinstance(config, str | os.PathLike | Mapping) else config.resolved()
        return [_with_schedule(source, schedule, overrides) for schedule in schedules]
    if isinstance(config, str | os.PathLike | Mapping):
        return [load_config(config, overrides)]
    return [load_config(config.resolved(), overrides) if overrides else config]


def _with_schedule(source: Source, schedule: Schedule, overrides: Sequence[str]) -> Config | _Refused:
    from pipesim.config import load_with_schedule

    try:
        return load_with_schedule(source, schedule, overrides)
    except ConfigError as error:
        if all(problem.path.partition(".")[0] == "schedule" for problem in error.problems):
            return _Refused(name_of(schedule), error.source, error)
        raise


def _labels(plans: Sequence[Config | _Refused], asked: Sequence[str]) -> Sequence[str]:
    """The shortest of schedule, file, file and schedule, and a number that tells all plans apart."""
    schedules = asked or [p.schedule if isinstance(p, _Refused) else p.schedule.name for p in plans]
    files = [os.path.basename(p.source or "config") for p in plans]
    both = [f"{file} {schedule}" for file, schedule in zip(files, schedules, strict=True)]
    numbered = [f"{index + 1} {label}" for index, label in enumerate(both)]
    return next((labels for labels in (schedules, files, both) if len(set(labels)) == len(labels)), numbered)


def _simulated(label: str, plan: Config | _Refused, engine: str | None) -> Plan:
    from pipesim import api

    if isinstance(plan, _Refused):
        return Plan(label, None, reasons(plan.error))
    try:
        return Plan(label, api.simulate(plan, engine=engine))
    except PipesimError as error:
        return Plan(label, None, reasons(error))


def reasons(error: PipesimError) -> str:
    """What is wrong, in one line, without the place in a file."""
    return "; ".join(problem.message for problem in error.problems) if isinstance(error, ConfigError) else str(error)
