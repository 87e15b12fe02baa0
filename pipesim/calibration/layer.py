"""One transformer layer, the embedding and the head, as one GPU holds them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pipesim.calibration.attention import Attention
from pipesim.calibration.feed_forward import Dense, Mixture
from pipesim.calibration.local import Local, whole
from pipesim.workload.matrices import head_matrices


class Layer(nn.Module):
    """Attention and feed-forward block, each behind a norm and added to the residual stream. ``repeat`` keeps of the
    whole layer its input.
    """

    def __init__(self, local: Local, mixture: bool) -> None:
        super().__init__()
        self.local, self.repeat = local, False
        self.first, self.second = local.norm(local.model.hidden), local.norm(local.model.hidden)
        self.attention = Attention(local)
        self.feed_forward = Mixture(local) if mixture else Dense(local, False, "mlp")

    def forward(self, x: Tensor) -> Tensor:
        """(rows, hidden) to the same."""
        if not self.repeat:
            return self._once(x)
        result: Tensor = checkpoint(self._once, x, use_reentrant=False, preserve_rng_state=False)
        return result

    def _once(self, x: Tensor) -> Tensor:
        x = self.residual(x, self.attention(self.first(x)))
        return self.residual(x, self.feed_forward(self.second(x)))

    def pointwise(self) -> Callable[[], None]:
        """What pointwise recomputation repeats: norms, activation functions and dropout, on inputs of their own."""
        local = self.local
        x = local.random(local.rows, local.model.hidden)
        inputs = [local.random(*shape) for shape in self.feed_forward.activated()]

        def run() -> None:
            for norm in (self.first, self.second):
                norm(x)
                functional.dropout(x, local.dropout)
            for each in inputs:
                self.feed_forward.activation(each)

        return run

    def residual(self, x: Tensor, branch: Tensor) -> Tensor:
        """The residual stream with a block's result."""
        return x + functional.dropout(branch, self.local.dropout)


class Embedding(nn.Module):
    """Look-up of tokens, positions and token types."""

    def __init__(self, local: Local) -> None:
        super().__init__()
        model = local.model
        self.local = local
        self.vocabulary = whole(model.vocab / local.shard.tensor)
        self.table = nn.Parameter(local.weight(self.vocabulary, model.hidden))
        self.positions = nn.Parameter(local.weight(model.positions, model.hidden)) if model.positions else None
        self.types = nn.Parameter(local.weight(model.token_types, model.hidden)) if model.token_types else None
        self.norm = local.norm(model.hidden) if model.token_types else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        """(tokens,) to (rows, hidden)."""
        found = functional.embedding(tokens, self.table)
        length = len(tokens) // self.local.training.micro_batch
        if self.positions is not None:
            found = (found.view(-1, length, found.shape[-1]) + self.positions[:length]).view(found.shape)
        if self.types is not None:
            found = found + self.types[0]
        here = self.norm(self.local.exchange(found, self.local.rows))
        return functional.dropout(here, self.local.dropout)


class Head(nn.Module):
    """Final norm, BERT's transform, vocabulary projection and loss over the part of the vocabulary on this GPU."""

    def __init__(self, local: Local) -> None:
        super().__init__()
        self.local = local
        *before, vocabulary = head_matrices(local.model)
        self.norm = local.norm(local.model.hidden)
        self.transform = local.linear(before[0]) if before else None
        self.vocabulary = local.linear(vocabulary)
        self.targets = local.integers(self.vocabulary.weight.shape[0], local.tokens)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, hidden) to the loss."""
        if self.transform is not None:
            x = functional.gelu(self.transform(x), approximate="tanh")
        logits = self.vocabulary(self.local.exchange(self.norm(x), self.local.tokens))
        return functional.cross_entropy(logits.float(), self.targets)
