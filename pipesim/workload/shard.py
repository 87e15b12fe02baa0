"""How the layers of one stage are cut over the GPUs that act as one rank."""

from __future__ import annotations

from dataclasses import dataclass

from pipesim.errors import Problem
from pipesim.workload.model import Model


@dataclass(frozen=True)
class Shard:
    """How the layers of one stage are cut over the GPUs that act as one rank.

    ``tensor`` ways of tensor parallelism, ``context`` ways along the sequence, ``expert`` ways of expert
    parallelism. With ``expert`` > 1 each expert lies whole on one GPU and the tokens of a tensor-parallel
    group are divided among its members (Megatron Core with an expert tensor-parallel size of 1); otherwise
    experts are split over ``tensor`` like any other MLP.
    """

    tensor: int = 1
    context: int = 1
    expert: int = 1
    sequence_parallel: bool = False

    @property
    def sequence_ways(self) -> int:
        """Ways in which norms, dropouts and residuals are divided, besides ``context``."""
        return self.tensor if self.sequence_parallel else 1

    @property
    def expert_tensor(self) -> int:
        """Ways in which one expert's matrices are split."""
        return self.tensor if self.expert == 1 else 1

    def problems(self, model: Model) -> list[Problem]:
        """What keeps this model from being cut this way, each with the numbers that would do."""
        found = []
        if model.heads % self.tensor:
            allowed = _divisors(model.heads)
            found.append(Problem("parallelism.tensor", "does not divide the heads", str(self.tensor), allowed))
        if self.expert > 1 and model.moe is None:
            found.append(Problem("parallelism.expert", "the model has no experts", str(self.expert), "1"))
        if model.moe and model.moe.experts % self.expert:
            allowed = _divisors(model.moe.experts)
            found.append(Problem("parallelism.expert", "does not divide the experts", str(self.expert), allowed))
        if model.sequence % self.context:
            allowed = f"a divisor of the sequence {model.sequence}"
            found.append(Problem("parallelism.context", "does not divide the sequence", str(self.context), allowed))
        return found


def _divisors(number: int) -> str:
    return ", ".join(str(each) for each in range(1, number + 1) if number % each == 0)
