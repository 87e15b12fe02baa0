"""``training.software``: the defaults of a training framework, filled in where a config says nothing itself."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from pipesim import catalog
from pipesim.config.section import listed, refuse
from pipesim.errors import nearest

USUAL = "megatron-core"
"""The software whose settings are the defaults of every option."""

FULLY_SHARDED = "pytorch-fsdp"
"""The software that does nearly all sharding of weights, where there is no pipeline."""

_SECTIONS = ("training", "simulation")


def complete(data: dict[str, Any]) -> dict[str, Any]:
    """``data``, a config's sections, with what the software that it names or implies does where it says nothing.

    Data that does neither, or names one that is not in the catalog, is returned as it is: checking it finds what is
    wrong.
    """
    training = data.get("training")
    name = training.get("software", _implied(data)) if isinstance(training, dict) else None
    entry = catalog.load("software").get(name) if isinstance(name, str) else None
    if entry is None:
        return data
    filled = {section: _filled(data, section, entry) for section in _SECTIONS}
    return {**data, **filled, "training": {"software": name, **_meant(filled["training"], entry)}}


def _implied(data: dict[str, Any]) -> str | None:
    """The software that a config means which names none: PyTorch's FSDP with ``zero: 3`` on one rank with replicas. Not
    for the breadth-first schedule, whose authors have their own, even without a pipeline.
    """
    training, parallelism, schedule = (data.get(key) for key in ("training", "parallelism", "schedule"))
    if not isinstance(training, dict) or not isinstance(parallelism, dict):
        return None
    sharded = training.get("zero") == 3 and any(parallelism.get(axis, 1) != 1 for axis in ("data", "context"))
    name = schedule.get("name") if isinstance(schedule, dict) else schedule
    return FULLY_SHARDED if sharded and parallelism.get("pipeline") == 1 and name != "breadth-first" else None


def taken_over(given: dict[str, Any], completed: dict[str, Any]) -> list[str]:
    """The paths that `complete` filled in, or put in other words."""
    if completed is given:
        return []
    both = ((section, given.get(section, {}), completed[section]) for section in _SECTIONS)
    return [
        f"{section}.{key}"
        for section, own, whole in both
        if isinstance(own, dict)
        for key, value in whole.items()
        if key not in own or own[key] != value
    ]


def _filled(data: dict[str, Any], section: str, entry: Any) -> Any:
    given = data.get(section, {})
    return {**catalog.copied(entry.get(section, {})), **given} if isinstance(given, dict) else given


def _meant(training: dict[str, Any], entry: Any) -> dict[str, Any]:
    """What words of a config mean in this software; with scores in memory, selective recomputation is of these."""
    if training.get("flash_attention") is False:
        return training
    words = {key: meanings for key, meanings in entry.get("means", {}).items() if isinstance(training.get(key), str)}
    return {**training, **{key: meanings.get(training[key], training[key]) for key, meanings in words.items()}}


def _known(name: str) -> str:
    names = catalog.names("software")
    if name not in names:
        raise refuse("unknown software", listed(names), nearest(name, names))
    return name


Software = Annotated[
    str,
    AfterValidator(_known),
    WithJsonSchema({"type": "string", "enum": catalog.names("software"), "description": "whose defaults hold"}),
]
