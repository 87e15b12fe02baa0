"""Checks of what a config says about each micro-batch: one entry each, of lengths that the parallelism can cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pipesim.config.cluster import Parallelism, Profile, Training
from pipesim.errors import Problem

if TYPE_CHECKING:
    from pipesim.workload.model import Model

_SHOWN = 5
"""Lengths that a message lists."""


def one_each(path: str, values: Sequence[float] | None, microbatches: int) -> Iterator[Problem]:
    """Whether a list has one entry per micro-batch."""
    if values is not None and len(values) != microbatches:
        allowed = f"{microbatches} entries, one per micro-batch"
        yield Problem(path, "wrong number of entries", str(len(values)), allowed)


def length_problems(
    parallelism: Parallelism, training: Training, model: Model | None, profile: Profile | None
) -> Iterator[Problem]:
    """What keeps a step from having these sequence lengths."""
    lengths = training.sequence_lengths
    if profile is not None:
        microbatches = training.global_batch // (training.micro_batch * parallelism.data)
        yield from one_each("costs.microbatch_scale", profile.microbatch_scale, microbatches)
    if lengths is None:
        return
    path = "training.sequence_lengths"
    yield from one_each(path, lengths, training.global_batch // (training.micro_batch * parallelism.data))
    if profile is not None:
        message = "a profile holds for the length it was measured at"
        yield Problem(path, message, _some(lengths), "nothing", "costs.microbatch_scale")
    ways = _ways(parallelism, training)
    wrong = [length for length in lengths if length % ways]
    if wrong:
        yield Problem(
            path, f"the parallelism does not divide every length by {ways}", _some(wrong), f"multiples of {ways}"
        )
    if model is not None and model.positions:
        longer = [length for length in lengths if length > model.positions]
        if longer:
            message = "longer than the position embeddings that the model has learned"
            yield Problem(path, message, _some(longer), f"at most {model.positions} tokens")


def _ways(parallelism: Parallelism, training: Training) -> int:
    """Ways in which tokens are cut: over the context axis, and with sequence parallelism over the tensor axis."""
    cut_by_tensor = training.sequence_parallel is not False
    return parallelism.context * (parallelism.tensor if cut_by_tensor else 1)


def _some(lengths: Sequence[int]) -> str:
    different = [str(length) for length in dict.fromkeys(lengths)]
    return ", ".join(different[:_SHOWN]) + (", ..." if len(different) > _SHOWN else "")
