"""Costs without hardware: numbers given by hand, for studying schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import Costs, Hops, HostCopies, StageSizes, StageTimes
from pipesim.errors import ConfigError, Problem

Given = float | Sequence[float]


def unit_costs(
    stages: int,
    ranks: int,
    forward: Given = 1.0,
    input_grad: Given = 1.0,
    weight_grad: Given = 1.0,
    p2p: float = 0.0,
    activation: Given = 1.0,
    weight_grad_share: float = 1.0,
    chunks: float = 1,
    optimizer: Given = 0.0,
    reconstruct: Given = 0.0,
    weights: Given = 0.0,
    offload: Given = 0.0,
) -> Costs:
    """Costs of ``stages`` stages on ``ranks`` ranks; times in seconds, sizes in whatever unit
    ``activation`` has.

    A number is for one rank's whole share of one micro-batch, so that with ``chunks`` stages per rank (on
    one route) each costs 1 / chunks of it. A list has one entry per stage, each that stage's own cost.
    ``p2p`` is the latency of one hop between ranks. ``activation`` is what F leaves behind and
    ``weight_grad_share`` the part of it that W still needs after I. ``optimizer`` is one update of a rank's
    ``weights``, ``reconstruct`` the recovery of older ones, ``offload`` a round trip of the activations to host
    memory, over a link of the rank's own. There are no collectives and no capacity.

    Raises ConfigError for a list of the wrong length, or a number that is negative or not finite.
    """
    problems: list[Problem] = []
    columns = {"forward": forward, "input_grad": input_grad, "weight_grad": weight_grad}
    columns |= {"optimizer": optimizer, "reconstruct": reconstruct, "offload": offload}
    times = {name: _per_stage(f"costs.{name}", value, stages, chunks, problems) for name, value in columns.items()}
    kept = _per_stage("memory.activation", activation, stages, chunks, problems)
    held = _per_stage("memory.weights", weights, stages, chunks, problems)
    _check_number("costs.p2p", p2p, math.inf, problems)
    _check_number("memory.weight_grad_share", weight_grad_share, 1.0, problems)
    if problems:
        raise ConfigError(problems)
    round_trip_s = times.pop("offload")
    return Costs(
        times=StageTimes.simple(**times),
        sizes=_sizes(kept, weight_grad_share, held),
        hops=Hops.uniform(ranks, p2p),
        buffers_bytes=np.zeros(ranks),
        host=HostCopies.unshared(round_trip_s, ranks) if round_trip_s.any() else None,
    )


def _per_stage(path: str, given: Given, stages: int, chunks: float, problems: list[Problem]) -> NDArray[np.float64]:
    """One value per stage, whichever way it was given."""
    if isinstance(given, Sequence):
        if len(given) != stages:
            found, allowed = f"{len(given)} entries", f"one entry per stage, {stages}"
            problems.append(Problem(path, "has the wrong length", found, allowed))
        for index, value in enumerate(given):
            _check_number(f"{path}[{index}]", value, math.inf, problems)
        return np.zeros(stages) if problems else np.asarray(given, dtype=np.float64)
    _check_number(path, given, math.inf, problems)
    return np.zeros(stages) if problems else np.full(stages, given / chunks, dtype=np.float64)


def _check_number(path: str, value: float, most: float, problems: list[Problem]) -> None:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if usable and 0 <= value <= most:
        return
    allowed = "a number of at least 0" if most == math.inf else f"a number from 0 to {most:g}"
    problems.append(Problem(path, "is not usable", repr(value), allowed))


def _sizes(kept: NDArray[np.float64], weight_grad_share: float, weights: NDArray[np.float64]) -> StageSizes:
    zero = np.zeros_like(kept)
    return StageSizes(
        weights=weights,
        gradients=zero,
        optimizer=zero,
        unsharded=zero,
        layerwise=zero,
        activations=kept,
        weight_grad_activations=kept * weight_grad_share,
        recomputed=zero,
        message=zero,
    )
