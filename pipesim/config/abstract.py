"""Sections of the abstract form: schedules studied without hardware."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from pipesim.config.section import (
    Bytes,
    Count,
    Ranks,
    Scales,
    Seconds,
    Section,
    Share,
    read_seconds,
    refuse,
    refuse_all,
    refused,
)


def _seconds_per_stage(value: Any) -> float | tuple[float, ...]:
    """One time for a rank's whole share, or a list with the time of every stage."""
    if not isinstance(value, list | tuple):
        return read_seconds(value)
    if not value:
        raise refuse("an empty list", "one entry per stage, or a single number")
    return _read_each(value)


def _read_each(values: Sequence[Any]) -> tuple[float, ...]:
    read, faults = [], []
    for index, value in enumerate(values):
        try:
            read.append(read_seconds(value))
        except PydanticCustomError as error:
            faults.append(refused(error, (index,), value))
    if faults:
        raise refuse_all(faults)
    return tuple(read)


_TIME = {"type": ["number", "string"]}
StageSeconds = Annotated[
    float | tuple[float, ...],
    PlainValidator(_seconds_per_stage),
    WithJsonSchema({
        "description": "seconds (or text with a unit) of one rank's whole share; or a list, one entry per stage",
        "anyOf": [_TIME, {"type": "array", "items": _TIME, "minItems": 1}],
    }),
]  # fmt: skip


class Pipeline(Section):
    """How many ranks, and micro-batches per step."""

    ranks: Ranks
    microbatches: Count


class UnitCosts(Section):
    """Seconds for one rank's whole share of one micro-batch, or per stage as lists; ``p2p`` for one hop.

    With c chunks per rank and route, a chunk costs 1/c of a single number; a list holds each stage's own cost.
    ``optimizer`` is one update of a rank's weights, ``reconstruct`` the recovery of older ones (layerpipe2).
    ``offload``: copying the activations of a rank's share to host memory and back, there and back together.
    ``microbatch_scale``: by how much each micro-batch's forward, backward, activations and copies are larger than that,
    one number per micro-batch; 1 when left out.
    """

    forward: StageSeconds = 1.0
    input_grad: StageSeconds = 1.0
    weight_grad: StageSeconds = 1.0
    p2p: Seconds = 0.0
    optimizer: StageSeconds = 0.0
    reconstruct: StageSeconds = 0.0
    offload: StageSeconds | None = None
    microbatch_scale: Scales | None = None


class UnitMemory(Section):
    """Activations of one rank's share for one micro-batch, in any unit, and the part that W still needs.

    ``weights``: one copy of a rank's weights, in the same unit.
    """

    activation: Bytes = 1.0
    weight_grad_share: Share = 0.5
    weights: Bytes = 0.0
