"""The attention block of one GPU: projections, rotation, and the core on its heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pipesim.calibration.local import Local, whole
from pipesim.workload.matrices import attention_matrices


class Core(nn.Module):
    """Scores, softmax, dropout and context of (batch, heads, sequence, dimension).

    Under context parallelism a GPU's queries meet as much as an even division of the causal square gives them: half of
    the keys, none of them masked. With the scores in memory they meet all keys, masked or not.
    """

    def __init__(self, local: Local) -> None:
        super().__init__()
        model, ways = local.model, local.shard.context
        self.local, self.flash = local, local.training.flash_attention
        self.causal = model.causal and ways == 1
        halved = model.causal and ways > 1 and self.flash
        self.queries, self.keys = whole(model.sequence / ways), whole(model.sequence / (2 if halved else 1))
        self.scale = model.query_key_dim**-0.5
        self.mask = self._mask() if model.causal and not self.flash else None

    def _mask(self) -> Tensor:
        """Scores of what comes after a query, for the last queries of the sequence."""
        shape, after = (self.queries, self.keys), self.keys - self.queries + 1
        return torch.ones(shape, dtype=torch.bool, device=self.local.device).triu(after)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The context of every query."""
        keys, values = (self.local.exchange(each, self.keys, dim=2) for each in (keys, values))
        dropout, grouped = self.local.dropout, queries.shape[1] != keys.shape[1]
        if not self.flash:
            return self._unfused(queries, keys, values, queries.shape[1] // keys.shape[1])
        return functional.scaled_dot_product_attention(
            queries, keys, values, dropout_p=dropout, is_causal=self.causal, enable_gqa=grouped
        )

    def _unfused(self, queries: Tensor, keys: Tensor, values: Tensor, share: int) -> Tensor:
        """Each step on its own, with the scores in memory."""
        if share > 1:
            keys, values = (each.repeat_interleave(share, dim=1) for each in (keys, values))
        scores = (queries @ keys.mT) * self.scale
        if self.mask is not None:
            scores = scores.masked_fill(self.mask, float("-inf"))
        weights = functional.dropout(scores.softmax(dim=-1), self.local.dropout)
        return weights @ values


class KeptContext(nn.Module):
    """In place of a core whose context was kept, while all that is around it is computed again."""

    def __init__(self, core: Core, heads: int) -> None:
        super().__init__()
        local = core.local
        self.context = local.random(local.training.micro_batch, heads, core.queries, local.model.value_dim)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The context, whatever it is of."""
        return self.context


class Rotary(nn.Module):
    """Rotation of (batch, heads, sequence, dimension) by position (Su et al. 2021, arXiv 2104.09864)."""

    def __init__(self, local: Local, dimension: int) -> None:
        super().__init__()
        positions = torch.arange(whole(local.model.sequence / local.shard.context), device=local.device)
        frequencies = 10_000.0 ** -(torch.arange(0, dimension, 2, device=local.device) / dimension)
        angles = positions[:, None] * frequencies
        self.cosine, self.sine = angles.cos().to(local.dtype), angles.sin().to(local.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """The rotated ``x``."""
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * self.cosine - second * self.sine, second * self.cosine + first * self.sine), dim=-1)


class Attention(nn.Module):
    """From the output of the norm to what is added to the residual stream. ``repeat`` keeps of the core its inputs."""

    def __init__(self, local: Local) -> None:
        super().__init__()
        self.local, self.repeat, self.core = local, False, Core(local)
        model = local.model
        self.heads = whole(model.heads / local.shard.tensor)
        self.groups = self.heads if model.mla else max(model.kv_heads // local.shard.tensor, 1)
        self.widths = [self.heads * model.query_key_dim, *2 * [self.groups * model.query_key_dim]]
        named = {matrix.name: matrix for matrix in attention_matrices(model)}
        outputs = {"qkv": sum(self.widths)}
        self.maps = nn.ModuleDict({name: local.linear(each, outputs.get(name)) for name, each in named.items()})
        rotated = (model.mla.rope if model.mla else model.head_dim) if model.rotary else 0
        self.rotary = Rotary(local, rotated) if rotated else nn.Identity()
        if model.mla:
            self.key_norm = local.norm(model.mla.kv_rank)
            self.query_norm = local.norm(model.mla.query_rank) if model.mla.query_rank else None

    def forward(self, x: Tensor) -> Tensor:
        """(rows, hidden) to the same."""
        inputs = self._latent(x) if self.local.model.mla else self._plain(x)
        if self.repeat:
            context = checkpoint(self.core, *inputs, use_reentrant=False, preserve_rng_state=False)
        else:
            context = self.core(*inputs)
        joined = context.transpose(1, 2).reshape(self.local.tokens, -1)
        return self.local.exchange(self.maps["out"](joined), self.local.rows)

    def _split(self, x: Tensor, heads: int) -> Tensor:
        """(tokens, heads x dimension) to (batch, heads, sequence, dimension)."""
        return x.view(self.local.training.micro_batch, -1, heads, x.shape[-1] // heads).transpose(1, 2)

    def _plain(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        projected = self.maps["qkv"](self.local.exchange(x, self.local.tokens))
        queries, keys, values = projected.split(self.widths, dim=-1)
        queries, keys, values = (
            self._split(each, heads)
            for each, heads in ((queries, self.heads), (keys, self.groups), (values, self.groups))
        )
        return self.rotary(queries), self.rotary(keys), values

    def _latent(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Multi-head latent attention (DeepSeek-V3, arXiv 2412.19437, section 2.1.1)."""
        mla, tokens, exchange = self.local.model.mla, self.local.tokens, self.local.exchange
        assert mla is not None
        latent, shared = self.maps["kv_down"](x).split([mla.kv_rank, mla.rope], dim=-1)
        expanded = self.maps["kv_up"](exchange(self.key_norm(latent), tokens))
        keys, values = self._split(expanded, self.heads).split([mla.nope, mla.value], dim=-1)
        position = self.rotary(self._split(exchange(shared, tokens), 1)).expand(-1, self.heads, -1, -1)
        queries, rotated = self._split(self._queries(x), self.heads).split([mla.nope, mla.rope], dim=-1)
        return torch.cat((queries, self.rotary(rotated)), -1), torch.cat((keys, position), -1), values

    def _queries(self, x: Tensor) -> Tensor:
        tokens, exchange = self.local.tokens, self.local.exchange
        if self.query_norm is None:
            result: Tensor = self.maps["query"](exchange(x, tokens))
            return result
        result = self.maps["query_up"](exchange(self.query_norm(self.maps["query_down"](x)), tokens))
        return result
