"""Why a step takes as long as it does: where ranks idle, for what, and what would bring more speed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipesim import api
from pipesim.result import Result
from pipesim.study.sensitivity import Sensitivity, sensitivities

if TYPE_CHECKING:
    import pandas as pd

    from pipesim.config import Config

LESS = 0.1
"""How much less time each part takes in turn."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """A simulated step, and what each part of it would bring if it took ``less`` of its time less."""

    result: Result
    sensitivities: list[Sensitivity]
    less: float

    @property
    def idle(self) -> pd.DataFrame:
        """Every idle interval: rank, start_s, end_s, cause, waiting_for, on_rank."""
        return self.result.idle

    @property
    def causes(self) -> list[dict[str, Any]]:
        """Idle time by cause, most first: mean over ranks, share of the step, and the longest intervals."""
        from pipesim.report.causes import causes_of

        metrics = self.result.metrics
        return causes_of(self.idle, metrics["step_time_s"], len(metrics["ranks"]))

    def as_json(self) -> dict[str, Any]:
        """Plain data: config, step time, causes, critical path and sensitivities."""
        metrics = self.result.metrics
        copied = ("schema_version", "config", "step_time_s")
        return {
            **{key: metrics[key] for key in copied},
            "idle": self.causes,
            "critical_path": metrics["critical_path"],
            "less": self.less,
            "sensitivities": [each.as_json() for each in self.sensitivities],
        }

    def __str__(self) -> str:
        from pipesim.report.explain import explanation

        return explanation(self.result.metrics, self.causes, [each.as_json() for each in self.sensitivities], self.less)


def explain(source: Config | api.Source | Result, less: float = LESS) -> Explanation:
    """Simulate a config and say why each bubble is there, and what would bring more speed.

    Raises:
        ConfigError: the config cannot be used; with everything that is wrong.
    """
    if not isinstance(source, Result):
        loaded = api.load(source) if isinstance(source, str | os.PathLike | Mapping) else source
        source = api.simulate(loaded, engine="compiled" if loaded.simulation.network == "ideal" else None)
    return Explanation(source, sensitivities(source, less), less)
