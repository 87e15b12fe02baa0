"""What would make a plan fit: the usual levers, each tried alone by simulating it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipesim import api
from pipesim.errors import PipesimError
from pipesim.units import format_bytes, format_seconds
from pipesim.workload.training import RECOMPUTES

if TYPE_CHECKING:
    from pipesim.config import Config
    from pipesim.config.document import ClusterConfig


MAX_TRIED = 2 * 10**6
"""Largest number of F, I and W ops of a plan whose levers are tried: each try takes as long as the plan itself."""


@dataclass(frozen=True)
class Advice:
    """One change of the config (as ``--set`` takes it) and what it leads to."""

    changes: tuple[str, ...]
    peak_bytes: float
    step_time_s: float
    fits: bool

    def __str__(self) -> str:
        changes = " ".join(f"--set {change}" for change in self.changes)
        verdict = "fits" if self.fits else "still too much"
        return f"{changes}: {format_bytes(self.peak_bytes)} ({verdict}), step {format_seconds(self.step_time_s)}"


def advise(config: Config | api.Source) -> list[Advice]:
    """Simulate a plan with one lever moved at a time; those that fit first, then by step time.

    Levers that the plan already uses, or that its numbers do not allow, are left out. The abstract form has no
    capacity and gets no advice, nor do plans of more than `MAX_TRIED` ops.
    """
    from pipesim.config.document import AbstractConfig

    loaded = api.load(config) if isinstance(config, str | os.PathLike | Mapping) else config
    if isinstance(loaded, AbstractConfig) or too_large(loaded):
        return []
    found = [advice for changes in levers(loaded) if (advice := _try(loaded, changes)) is not None]
    return sorted(found, key=lambda a: (not a.fits, a.step_time_s if a.fits else a.peak_bytes, a.changes))


def too_large(config: Config) -> bool:
    """Whether trying the levers of a plan would take minutes."""
    from pipesim import pricing

    return pricing.fitted(config).size(config.ranks, config.microbatches).ops > MAX_TRIED


def levers(config: ClusterConfig) -> Iterator[tuple[str, ...]]:
    """Changes that reduce memory, as ``path=value``."""
    training, parallelism = config.training, config.parallelism
    for choice in RECOMPUTES[RECOMPUTES.index(training.recompute) + 1 :]:
        yield (f"training.recompute={choice}",)
    for stage in range(training.zero + 1, 4 if parallelism.data > 1 else 1):
        yield (f"training.zero={stage}",)
    if not training.fused_loss:
        yield ("training.fused_loss=true",)
    if not training.flash_attention:
        yield ("training.flash_attention=true",)
    if parallelism.tensor > 1 and not config.sequence_parallel:
        yield ("training.sequence_parallel=true",)
    if training.micro_batch > 1:
        yield (f"training.micro_batch={training.micro_batch // 2}",)
    for schedule in ("1f1b", "v-half", "v-min"):
        if schedule != config.schedule.name:
            yield (f"schedule={schedule}",)
    for axis in ("pipeline", "tensor"):
        double = 2 * getattr(parallelism, axis)
        if parallelism.data % 2 == 0:
            yield (f"parallelism.{axis}={double}", f"parallelism.data={parallelism.data // 2}")
        nodes = 2 * config.cluster.nodes
        yield (f"parallelism.{axis}={double}", f"cluster.nodes={nodes}")


def _try(config: ClusterConfig, changes: tuple[str, ...]) -> Advice | None:
    try:
        changed = api.load(config.resolved(), [*changes])
        metrics = api.simulate(changed, engine="compiled").metrics
    except PipesimError:
        return None
    memory = metrics["memory"]
    return Advice(changes, memory["peak_bytes"], metrics["step_time_s"], bool(memory["fits"]))
