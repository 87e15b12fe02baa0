"""``training.software``: the defaults of a training framework, filled in where a config says nothing itself."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from pipesim import catalog
from pipesim.config.section import listed, refuse
from pipesim.errors import nearest

USUAL = "megatron-core"
"""The software whose settings are the defaults of every option."""

FULLY_SHARDED = "torchtitan"
"""The software that is meant where weights are sharded without a pipeline: PyTorch's FSDP does nearly all of that."""

_SECTIONS = ("training", "simulation")


def complete(data: dict[str, Any]) -> dict[str, Any]:
    """``data``, a config's sections, with what the software that it names or implies does where it says nothing.

    Data that does neither, or names one that is not in the catalog, is returned as it is: checking it finds what is
    wrong.
    """
    training = data.get("training")
    name = (implied(data) or training.get("software")) if isinstance(training, dict) else None
    entry = catalog.load("software").get(name) if isinstance(name, str) else None
    if entry is None:
        return data
    filled = {section: _filled(data, section, entry) for section in _SECTIONS}
    return {**data, **filled, "training": {"software": name, **filled["training"]}}


def implied(data: dict[str, Any]) -> str | None:
    """The software that a config which names none means: PyTorch's FSDP with ``zero: 3`` on one pipeline rank."""
    training, parallelism = data.get("training"), data.get("parallelism", {})
    if not isinstance(training, dict) or not isinstance(parallelism, dict) or "software" in training:
        return None
    whole = training.get("zero") == 3 and parallelism.get("pipeline") == 1
    return FULLY_SHARDED if whole else None


def taken_over(given: dict[str, Any], completed: dict[str, Any]) -> list[str]:
    """The paths that `complete` filled in."""
    if completed is given:
        return []
    both = ((section, given.get(section, {}), completed[section]) for section in _SECTIONS)
    return [
        f"{section}.{key}" for section, own, whole in both if isinstance(own, dict) for key in whole if key not in own
    ]


def _filled(data: dict[str, Any], section: str, entry: Any) -> Any:
    given = data.get(section, {})
    return {**catalog.copied(entry.get(section, {})), **given} if isinstance(given, dict) else given


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
