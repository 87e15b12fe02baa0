"""Several plans side by side: one table, one figure with all timelines on the same time axis."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipesim.errors import ConfigError, PipesimError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from pipesim.config import Config
    from pipesim.result import Result

Source = str | os.PathLike[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """One row: a result, or why there is none."""

    label: str
    result: Result | None
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The metrics, or the error, as plain data."""
        metrics = self.result.metrics if self.result is not None else None
        return {"label": self.label, "metrics": metrics, "error": self.error}

    def row(self, first_step_s: float | None) -> dict[str, Any]:
        """The numbers of a comparison; ``None`` where there is none."""
        if self.result is None:
            return {"label": self.label, "error": self.error}
        metrics = self.result.metrics
        copied = ("step_time_s", "bubble_fraction", "bubble_overhead", "span_bubble_fraction")
        throughput, memory = metrics.get("throughput") or {}, metrics["memory"]
        return {
            "label": self.label,
            "schedule": metrics["config"]["schedule"]["name"],
            **{key: metrics[key] for key in copied},
            "speedup": first_step_s / metrics["step_time_s"] if first_step_s else None,
            "peak_in_flight": max(rank["peak_in_flight"] for rank in metrics["ranks"]),
            "peak_bytes": memory["peak_bytes"],
            "fits": memory["fits"],
            "tokens_per_s": throughput.get("tokens_per_s"),
            "mfu": throughput.get("mfu"),
            "error": None,
        }


@dataclass(frozen=True, eq=False)
class Comparison:
    """Plans in the order they were given; plans that do not fit, or cannot run, stay in it."""

    plans: Sequence[Plan]

    @property
    def results(self) -> list[Result]:
        """The results there are."""
        return [plan.result for plan in self.plans if plan.result is not None]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One mapping per plan; ``speedup`` is relative to the first plan that ran."""
        first = self.results[0].metrics["step_time_s"] if self.results else None
        return [plan.row(first) for plan in self.plans]

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

    def _repr_html_(self) -> str:
        return self.frame._repr_html_()  # type: ignore[operator, no-any-return]


def compare(
    configs: Iterable[Config | Source],
    schedules: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    labels: Sequence[str] | None = None,
) -> Comparison:
    """Simulate every config, or every config with every one of ``schedules``.

    ``overrides`` are ``path=value`` strings for all of them. ``labels`` default to the schedules' names, or to
    the files' names where the schedule is the same. All configs are read before anything is simulated.

    A plan that its schedule cannot run becomes a row that says why. Raises ConfigError for any other error in a
    config, and ScheduleError for an unknown schedule.
    """
    loaded = [one for config in configs for one in _loaded(config, schedules, overrides)]
    names = list(labels) if labels is not None else _labels(loaded)
    return Comparison([_simulated(label, one) for label, one in zip(names, loaded, strict=True)])


@dataclass(frozen=True)
class _Refused:
    """A schedule that cannot run the numbers of a config."""

    schedule: str
    source: str | None
    error: ConfigError


def _loaded(
    config: Config | Source, schedules: Sequence[str] | None, overrides: Sequence[str]
) -> list[Config | _Refused]:
    from pipesim.config import load_config

    if schedules is not None:
        source = config if isinstance(config, str | os.PathLike | Mapping) else config.resolved()
        return [_with_schedule(source, name, overrides) for name in schedules]
    return [load_config(config, overrides) if isinstance(config, str | os.PathLike | Mapping) else config]


def _with_schedule(source: Source, schedule: str, overrides: Sequence[str]) -> Config | _Refused:
    from pipesim.config import load_with_schedule

    try:
        return load_with_schedule(source, schedule, overrides)
    except ConfigError as error:
        if all(problem.path.partition(".")[0] == "schedule" for problem in error.problems):
            return _Refused(schedule, error.source, error)
        raise


def _labels(plans: Sequence[Config | _Refused]) -> list[str]:
    """The shortest of schedule, file, file and schedule, and a number that tells all plans apart."""
    schedules = [p.schedule if isinstance(p, _Refused) else p.schedule.name for p in plans]
    files = [os.path.basename(p.source or "config") for p in plans]
    both = [f"{file} {schedule}" for file, schedule in zip(files, schedules, strict=True)]
    numbered = [f"{index + 1} {label}" for index, label in enumerate(both)]
    return next((labels for labels in (schedules, files, both) if len(set(labels)) == len(labels)), numbered)


def _simulated(label: str, plan: Config | _Refused) -> Plan:
    from pipesim import api

    if isinstance(plan, _Refused):
        return Plan(label, None, _reasons(plan.error))
    try:
        return Plan(label, api.simulate(plan))
    except ConfigError as error:
        return Plan(label, None, _reasons(error))
    except PipesimError as error:
        return Plan(label, None, str(error))


def _reasons(error: ConfigError) -> str:
    return "; ".join(problem.message for problem in error.problems)
