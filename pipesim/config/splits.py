"""Whether the axes of parallelism divide what they split of a model."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING

from pipesim.config.cluster import Parallelism, Training
from pipesim.errors import Problem

if TYPE_CHECKING:
    from pipesim.workload.model import Model


def split_problems(model: Model, parallelism: Parallelism, training: Training | None) -> Iterator[Problem]:
    """All of them; one complaint per axis is enough."""
    tensor = chain(_heads(model, parallelism.tensor), _sequence_parallel(model, parallelism, training))
    context = _divides(parallelism.context, model.sequence, "parallelism.context", "tokens of a sequence")
    yield from islice(tensor, 1)
    yield from context
    if training is not None and training.context_method == "all-to-all":
        yield from islice(_heads_of_context(model, parallelism), 1)
    yield from _experts(parallelism, model)


def _heads(model: Model, tensor: int) -> Iterator[Problem]:
    """Key-value heads are split over the tensor axis too, or copied when there are fewer of them."""
    yield from _divides(tensor, model.heads, "parallelism.tensor", "attention heads")
    yield from _key_value_heads(model, tensor, "parallelism.tensor")


def _key_value_heads(model: Model, ways: int, path: str) -> Iterator[Problem]:
    groups = model.kv_heads
    if groups % ways and ways % groups:
        allowed = f"a divisor or a multiple of {groups}"
        yield Problem(path, "does not split the key-value heads", f"{ways} for {groups}", allowed)


def _heads_of_context(model: Model, parallelism: Parallelism) -> Iterator[Problem]:
    """An all-to-all leaves each GPU of a context-parallel group whole sequences of a part of its heads."""
    context, tensor = parallelism.context, parallelism.tensor
    if model.heads % tensor:
        return
    yield from _divides(context, model.heads // tensor, "parallelism.context", "attention heads of a GPU")
    yield from _key_value_heads(model, context * tensor, "parallelism.context")


def _sequence_parallel(model: Model, parallelism: Parallelism, training: Training | None) -> Iterator[Problem]:
    """Sequence parallelism cuts each context rank's tokens once more, over the tensor axis."""
    tensor, (tokens, rest) = parallelism.tensor, divmod(model.sequence, parallelism.context)
    wanted = training is None or training.sequence_parallel is not False
    if wanted and not rest and tokens % tensor:
        message = "sequence parallelism does not divide the tokens of a rank"
        near = "training.sequence_parallel: false"
        yield Problem("parallelism.tensor", message, f"{tensor} for {tokens}", _divisors(tokens), near)


def _experts(parallelism: Parallelism, model: Model) -> Iterator[Problem]:
    ways, path = parallelism.expert, "parallelism.expert"
    if ways == 1:
        return
    if model.moe is None:
        yield Problem(path, "the model has no experts", str(ways), "1")
        return
    yield from _divides(ways, model.moe.experts, path, "experts")


def _divides(parts: int, whole: int, path: str, what: str) -> Iterator[Problem]:
    if whole % parts:
        yield Problem(path, f"does not divide the {what}", f"{parts} for {whole}", _divisors(whole))


def _divisors(number: int) -> str:
    small = [d for d in range(1, min(number, 10**6) + 1) if number % d == 0]
    return ", ".join(map(str, small[:16])) + (", ..." if len(small) > 16 else "")
