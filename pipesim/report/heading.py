"""What was simulated, in one or two lines: model, machine, parallelism, schedule, batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]

AXES = {"pipeline": "PP", "tensor": "TP", "data": "DP", "context": "CP", "expert": "EP"}


def heading(config: Config, ranks: int) -> list[str]:
    """Lines that name a run by its resolved config; what the config does not say is left out."""
    return [line for line in (_machine(config, ranks), _plan(config)) if line]


def _machine(config: Config, ranks: int) -> str:
    """Model and GPUs, or the number of ranks of an abstract run."""
    degrees = {axis: config["parallelism"].get(axis, 1) for axis in AXES} if config.get("parallelism") else {}
    model, gpu = _name(config.get("model")), _name((config.get("cluster") or {}).get("gpu"))
    if not degrees:
        count = f"{ranks} rank{'s' if ranks != 1 else ''}" if ranks else ""
        return ", ".join(part for part in (model, count) if part)
    gpus = 1
    for axis, degree in degrees.items():
        gpus *= degree if axis != "expert" else 1
    machine = f"{gpus} x {gpu}" if gpu else f"{gpus} GPUs"
    split = ", ".join(f"{AXES[axis]} {degree}" for axis, degree in degrees.items() if degree != 1)
    return " on ".join(part for part in (model, machine) if part) + (f" ({split})" if split else "")


def _plan(config: Config) -> str:
    """Schedule with its options, micro-batches, and what changes time or memory most."""
    training = config.get("training") or {}
    parts = [_schedule(config.get("schedule")), _microbatches(config)]
    parts.append(str(training.get("precision") or ""))
    unusual = {key: training.get(key) for key in ("recompute", "zero")}
    parts += [f"{key} {value}" for key, value in unusual.items() if value not in (None, "none", 0)]
    return ", ".join(part for part in parts if part)


def _schedule(schedule: Any) -> str:
    if not isinstance(schedule, Mapping):
        return str(schedule or "")
    options = [f"{key} {value}" for key, value in schedule.items() if key != "name" and value is not None]
    return f"{schedule.get('name', '')}" + (f" ({', '.join(options)})" if options else "")


def microbatches(config: Config) -> int:
    """Micro-batches per step of one replica; 0 where a config does not tell."""
    training, pipeline = config.get("training") or {}, config.get("pipeline") or {}
    count = pipeline.get("microbatches")
    batch, size = training.get("global_batch"), training.get("micro_batch")
    if count is None and batch and size:
        count = batch // (size * (config.get("parallelism") or {}).get("data", 1))
    return int(count or 0)


def _microbatches(config: Config) -> str:
    training = config.get("training") or {}
    count, size = microbatches(config), training.get("micro_batch")
    if not count:
        return ""
    return f"{count} micro-batch{'es' if count != 1 else ''}" + (f" of {size}" if size else "") + _lengths(training)


def _lengths(training: Config) -> str:
    """Shortest and longest sequences, where they are not all the model's."""
    lengths = training.get("sequence_lengths")
    if not lengths:
        return ""
    shortest, longest = min(lengths), max(lengths)
    return f" x {shortest:,} tokens" if shortest == longest else f" x {shortest:,} to {longest:,} tokens"


def _name(thing: Any) -> str:
    """A catalog name, or the name or base of something given inline."""
    if isinstance(thing, Mapping):
        return str(thing.get("name") or thing.get("base") or "")
    return str(thing or "")
