"""What a layer, an embedding or a head takes, phase by phase, and how much of that is communication."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """Seconds of one phase; ``collective_s`` of ``seconds`` is communication inside it."""

    seconds: float = 0.0
    collective_s: float = 0.0

    def __add__(self, other: Phase) -> Phase:
        return Phase(self.seconds + other.seconds, self.collective_s + other.collective_s)

    def __mul__(self, count: float) -> Phase:
        return Phase(self.seconds * count, self.collective_s * count)

    def slowed(self, factor: float) -> Phase:
        """As long on a GPU that computes more slowly by ``factor``, communication as before."""
        return Phase(self.collective_s + (self.seconds - self.collective_s) * factor, self.collective_s)

    def at_least(self, floor_s: float) -> Phase:
        """Stretched to ``floor_s`` where launching takes longer than running."""
        return Phase(max(self.seconds, floor_s), self.collective_s)


@dataclass(frozen=True)
class LayerTimes:
    """Forward, the two halves of the backward, the forward work that recomputation repeats, and what a backward
    that is not split saves by communicating for its first half beside its second.
    """

    forward: Phase = Phase()
    input_grad: Phase = Phase()
    weight_grad: Phase = Phase()
    recompute: Phase = Phase()
    overlap: Phase = Phase()

    def __add__(self, other: LayerTimes) -> LayerTimes:
        return LayerTimes(
            self.forward + other.forward,
            self.input_grad + other.input_grad,
            self.weight_grad + other.weight_grad,
            self.recompute + other.recompute,
            self.overlap + other.overlap,
        )

    def times(self, count: int) -> LayerTimes:
        """So many layers of this kind."""
        phases = (self.forward, self.input_grad, self.weight_grad, self.recompute, self.overlap)
        return LayerTimes(*(phase * count for phase in phases))


def total(phases: Iterable[Phase]) -> Phase:
    """The phases one after the other."""
    return sum(phases, Phase())
