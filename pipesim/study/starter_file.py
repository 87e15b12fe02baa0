"""A plan as a commented YAML file for people to go on from."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from typing import Any

from pipesim.study.starter import Starter, Wish
from pipesim.units import format_bytes, format_seconds

COLUMN = 36
"""Where comments begin."""


def starter_file(plan: Starter, wish: Wish, model: str) -> str:
    """The text of a config.

    ``model`` is its name, or its path as seen from where the file will be.
    """
    lines = [*_header(plan, wish), *(_line(*entry) for entry in _entries(plan, model))]
    return "\n".join(lines) + "\n"


def schema_path() -> str:
    """Where editors find the schema of configs: it is installed with the package."""
    return str(resources.files("pipesim.config").joinpath("schema.json"))


def _header(plan: Starter, wish: Wish) -> list[str]:
    metrics, memory = plan.result.metrics, plan.result.metrics["memory"]
    used, there = format_bytes(memory["peak_bytes"]), format_bytes(memory["capacity_bytes"])
    return [
        f"# yaml-language-server: $schema={schema_path()}",
        f"# {wish.model} on {_gpus(plan)} x {wish.gpu}: the fastest of the usual plans that fits, to start from.",
        f"# Simulated: {format_seconds(metrics['step_time_s'])} per step, "
        f"MFU {metrics['throughput']['mfu']:.0%}, {used} of {there} on the fullest GPU.",
        "# Try changes with: pipesim run THIS_FILE --set training.recompute=full",
    ]


def _entries(plan: Starter, model: str) -> Iterator[tuple[str, str]]:
    """Lines of the config and what is to be said about them."""
    cluster, split, training = (plan.config[section] for section in ("cluster", "parallelism", "training"))
    microbatches = training["global_batch"] // split["data"]
    yield f"model: {model}", "a name (pipesim models), a config.json, or {layers: ..., hidden: ...}"
    yield "cluster:", ""
    yield f"  gpu: {cluster['gpu']}", "a name (pipesim hardware), or {base: name, memory: 64 GB}"
    yield f"  gpus_per_node: {cluster['gpus_per_node']}", ""
    yield f"  nodes: {cluster['nodes']}", ""
    yield f"  # inter_node: {_fabric(plan)}", "what this GPU usually comes with"
    yield "parallelism:", ""
    yield f"  pipeline: {split['pipeline']}", "ranks that the layers are dealt out to"
    yield f"  tensor: {split['tensor']}", "GPUs that share every layer; best within a node"
    yield f"  data: {split['data']}", f"replicas; pipeline x tensor x data = {_gpus(plan)} GPUs"
    if "expert" in split:
        yield f"  expert: {split['expert']}", "of the replicas, those that share the experts"
    yield f"schedule: {_flow(plan.config['schedule'])}", "pipesim schedules; pipesim compare --schedules a,b,c"
    yield "training:", ""
    yield f"  software: {training['software']}", "whose settings hold where nothing else is said (pipesim software)"
    yield f"  micro_batch: {training['micro_batch']}", "sequences that go through the pipeline together"
    yield f"  global_batch: {training['global_batch']}", f"sequences per step: {microbatches} micro-batches per replica"
    yield f"  precision: {training['precision']}", ""
    yield f"  recompute: {training['recompute']}", "none, selective, without-attention or full: less memory, more time"
    yield f"  zero: {training['zero']}", "0 to 3: what replicas share out instead of copying"
    yield "# simulation: {network: fifo}", "transfers that wait for each other"


def _line(entry: str, comment: str) -> str:
    return f"{entry:<{COLUMN - 2}}  # {comment}" if comment else entry


def _gpus(plan: Starter) -> int:
    return int(plan.config["cluster"]["nodes"] * plan.config["cluster"]["gpus_per_node"])


def _flow(schedule: dict[str, Any]) -> str:
    if len(schedule) == 1:
        return str(schedule["name"])
    return "{" + ", ".join(f"{key}: {value}" for key, value in schedule.items()) + "}"


def _fabric(plan: Starter) -> str:
    return str(plan.result.metrics["config"]["cluster"]["inter_node"])
