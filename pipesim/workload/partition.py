"""Which layers make up each pipeline stage."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from pipesim.errors import ConfigError, Problem


def partition(layers: int, stages: int, choice: Sequence[int] | str | None = None) -> tuple[int, ...]:
    """Layers per stage, length ``stages``, summing to ``layers``.

    The embedding belongs to the first stage and the head to the last; neither is a layer. ``choice``: the layers
    themselves; ``ends-short`` for one layer less on the first and the last stage than on each of the others, which may
    leave the two with the embedding and the head alone (PipeOffload, arXiv 2503.01328); or
    ``even``, as without it: every stage gets as many layers as any other, and when they do not divide evenly the
    stages nearest to the ends are one layer short, the last first, because they also carry the head and the
    embedding (so 126 layers on 16 stages become 7, 8 x 14, 7, as in Llama 3, arXiv 2407.21783, section 3.3.2).

    Raises ConfigError when there are fewer layers than stages, or ``choice`` does not fit, with the numbers
    that would.
    """
    if choice == "ends-short":
        return _ends_short(layers, stages)
    if choice is not None and not isinstance(choice, str):
        return _checked(layers, stages, tuple(choice))
    if stages > layers:
        allowed = f"at most {layers} stages, or a partition that leaves some of them empty"
        found = f"{stages} stages for {layers} layers"
        raise ConfigError([Problem("schedule", "more stages than layers", found, allowed)])
    base, extra = divmod(layers, stages)
    short = set(_ends_first(stages)[: stages - extra]) if extra else set()
    full = base + 1 if extra else base
    return tuple(full - (stage in short) for stage in range(stages))


def layer_ranges(counts: Sequence[int]) -> tuple[range, ...]:
    """For each stage the indices of its layers."""
    return tuple(range(end - count, end) for count, end in zip(counts, accumulate(counts), strict=True))


def _ends_short(layers: int, stages: int) -> tuple[int, ...]:
    middle, rest = divmod(layers + 2, stages)
    if stages == 1 or rest:
        message = "one layer less on the first and the last stage does not fit"
        found = f"{layers} layers on {stages} stages"
        usable = [each for each in range(2, layers + 3) if (layers + 2) % each == 0]
        lower, upper = middle * stages - 2, (middle + 1) * stages - 2
        fitting = [str(each) for each in (lower, upper) if each >= 1]
        allowed = f"stages that divide {layers + 2}, layers plus two: {', '.join(map(str, usable))}"
        if stages > 1:
            allowed += f"; {' or '.join(fitting)} layers on {stages} stages"
        raise ConfigError([Problem("training.partition", message, found, allowed, "even or balanced")])
    return (middle - 1, *(middle,) * (stages - 2), middle - 1)


def _ends_first(stages: int) -> list[int]:
    """Stage numbers by distance to an end: last, first, last but one, second, ..."""
    return sorted(range(stages), key=lambda stage: (min(stage, stages - 1 - stage), -stage))


def _checked(layers: int, stages: int, counts: tuple[int, ...]) -> tuple[int, ...]:
    path = "training.partition"
    problems = []
    if len(counts) != stages:
        problems.append(Problem(path, "does not have one entry per stage", f"{len(counts)} entries", f"{stages}"))
    if any(count < 0 for count in counts):
        problems.append(Problem(path, "has a negative entry", str(list(counts)), "layers per stage, 0 or more"))
    if sum(counts) != layers:
        problems.append(Problem(path, "does not add up to the layers of the model", str(sum(counts)), f"{layers}"))
    if problems:
        raise ConfigError(problems)
    return counts
