"""Unit costs: the abstract form, for people who study schedules with no hardware in sight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import Costs, Hops, StageSizes, StageTimes
from pipesim.errors import ConfigError, Problem

PerStage = float | Sequence[float]


def unit_costs(
    stages: int,
    ranks: int,
    *,
    chunks: float,
    forward: PerStage = 1.0,
    input_grad: PerStage = 1.0,
    weight_grad: PerStage = 1.0,
    p2p: float = 0.0,
    activation: float = 1.0,
    weight_grad_share: float = 0.5,
) -> Costs:
    """Costs of S stages on P ranks.

    A single number of seconds is for one rank's whole share of a micro-batch on one route, so a stage costs
    1/``chunks`` of it; a list has each stage's own seconds. ``p2p`` is the latency of one hop in seconds,
    ``activation`` what one rank's share leaves behind, ``weight_grad_share`` the part of it that W needs.

    Raises:
        ConfigError: a list does not have one entry per stage.
    """
    given = {"forward": forward, "input_grad": input_grad, "weight_grad": weight_grad}
    problems = [p for name, value in given.items() for p in _length_problems(name, value, stages)]
    if problems:
        raise ConfigError(problems)
    zero = np.zeros(stages)
    kept = np.full(stages, activation / chunks)
    return Costs(
        times=StageTimes.simple(*(_per_stage(value, stages, chunks) for value in given.values())),
        sizes=StageSizes(zero, zero, zero, zero, kept, kept * weight_grad_share, zero, zero),
        hops=Hops.uniform(ranks, p2p),
        buffers_bytes=np.zeros(ranks),
    )


def _per_stage(value: PerStage, stages: int, chunks: float) -> NDArray[np.float64]:
    if isinstance(value, int | float):
        return np.full(stages, value / chunks)
    return np.asarray(value, np.float64)


def _length_problems(name: str, value: PerStage, stages: int) -> list[Problem]:
    if isinstance(value, int | float) or len(value) == stages:
        return []
    found, allowed = f"{len(value)} entries", f"a single number, or {stages} entries, one per stage"
    return [Problem(f"costs.{name}", "wrong length", found, allowed)]
