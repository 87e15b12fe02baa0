"""Stages made of parts of layers: their parameters, activations and messages.

A stage that projects to queries, keys and values with shipped weights owns none of them: they, their gradient
and their optimizer state are at the norm before it, and travel with every message.

What a forward leaves behind, with everything but the attention core repeated, in elements per layer, as saved by
code-tunnel/Megatron-LM (branch dev) megatron/model/customized_modules.py: 2 b s h at the weights (attention output
and residual), 2 b s h, log-sum-exp and the shipped weights at the attention (norm output and its own output).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.parts import PartCosts, repeated_parts, ships_weights
from pipesim.costs.stages import Stage, StageActivations
from pipesim.ir.cut import Cut, Part, Piece
from pipesim.workload import memory
from pipesim.workload.matrices import Matrix, layer_matrices, qkv_matrices
from pipesim.workload.model import Model
from pipesim.workload.parameters import (
    Count,
    embedding_parameters,
    head_parameters,
    post_attention_parameters,
    pre_attention_parameters,
)


@dataclass(frozen=True)
class PartStage(Stage):
    """A stage made of pieces, in the order in which a token meets them."""

    pieces: tuple[Piece, ...] = ()

    @property
    def contents(self) -> Hashable:
        """Its pieces; layers of different kinds differ in time and size."""
        return self.pieces


def build_part_stages(model: Model, cut: Cut, ranks: Sequence[Sequence[int]]) -> list[PartStage]:
    """Stages of a model; ``ranks`` lists for each the pipeline ranks that run it."""
    apart = set(ranks[0]) != set(ranks[-1])
    own_vocabulary = True if model.tied_embeddings and apart else None
    stages = []
    for pieces, where in zip(cut.pieces, ranks, strict=True):
        parts = {piece.part for piece in pieces}
        held = sum((_parameters(model, piece, own_vocabulary) for piece in pieces), Count())
        embedding, head = Part.EMBEDDING in parts, Part.HEAD in parts
        stages.append(PartStage(0, 0, embedding, head, held, tuple(sorted(set(where))), tuple(pieces)))
    return stages


def _parameters(model: Model, piece: Piece, own_vocabulary: bool | None) -> Count:
    """Parameters that live with a part; those of QKV live with the norm."""
    if piece.part == Part.EMBEDDING:
        return embedding_parameters(model)
    if piece.part == Part.HEAD:
        return head_parameters(model, own_vocabulary)
    if piece.part == Part.NORM:
        return pre_attention_parameters(model)
    return post_attention_parameters(model, model.is_mixture(piece.layer)) if piece.part == Part.POST else Count()


def message_bytes(prices: PartCosts, stages: Sequence[PartStage]) -> NDArray[np.float64]:
    """What every stage hands on, before tensor parallelism divides it, shape (S,).

    The residual stream always; with it the output of the norm and the weights of QKV (2 b s h + 3 h^2), or
    queries, keys and values (4 b s h in all), or the attention output (2 b s h).
    """
    model, element, residual = prices.model, prices.training.element_bytes, prices.message_bytes
    per_token = element * prices.tokens
    queries_and_values = model.heads * model.query_key_dim + _kv_heads(model) * (model.query_key_dim + model.value_dim)
    weights = element * sum(matrix.parameters for matrix in qkv_matrices(model)) if prices.cut_ships else 0.0
    extra = {
        Part.NORM: residual + weights,
        Part.QKV: per_token * queries_and_values,
        Part.ATTENTION: per_token * model.heads * model.value_dim,
    }
    return np.array([residual + extra.get(stage.pieces[-1].part, 0.0) for stage in stages], dtype=np.float64)


def _kv_heads(model: Model) -> int:
    return model.heads if model.mla else model.kv_heads


@dataclass(frozen=True)
class PartActivations(StageActivations):
    """Activation bytes of a stage of parts, for one micro-batch on one GPU."""

    cut: Cut

    @cached_property
    def repeated(self) -> frozenset[Part]:
        """Parts that backwards compute again."""
        return repeated_parts(self.training, self.cut)

    def kept(self, stage: Stage) -> float:
        """What the forward leaves behind: inputs of repeated parts, everything of others, shipped weights."""
        pieces = _pieces(stage)
        total = self._shipped if ships_weights(pieces) else 0.0
        for before, piece in zip((None, *pieces), pieces, strict=False):
            follows_repeated = before is not None and before.part in self.repeated
            if piece.part in self.cut.deferred:
                total += self._residual
            elif piece.part in self.repeated:
                total += 0.0 if follows_repeated else self._input(piece.part)
            else:
                total += self._saved(piece, before) - (self._input(piece.part) if follows_repeated else 0.0)
        return total

    def recomputed(self, stage: Stage) -> float:
        """What repeated parts bring back until their backward ends."""
        total, before = 0.0, None
        for piece in _pieces(stage):
            repeated, starts = piece.part in self.repeated, before is None or before.part not in self.repeated
            if repeated:
                inputs = self._input(piece.part) - (self._residual if piece.part == Part.POST else 0.0)
                total += self._saved(piece, before) - (inputs if starts else 0.0)
            elif not starts and piece.part not in self.cut.deferred:
                total += self._input(piece.part)
            before = piece
        return max(total, 0.0)

    def for_weight_grad(self, stage: Stage) -> float:
        """What W would need after I, were a backward split."""
        total = 0.0
        for piece in _pieces(stage):
            matrices = _matrices(self.model, piece)
            total += memory.matrix_activations(matrices, self.model, self.training, self.shard)
            if piece.part == Part.HEAD:
                total += self._residual + memory.logits(self.model, self.training, self.shard)
        return total

    def transient(self, stage: Stage) -> float:
        """What the backward works in besides, at its widest; what a deferred part saves exists only then."""
        arguments = (self.model, self.training, self.shard)
        sizes = [0.0]
        for piece in _pieces(stage):
            if piece.part == Part.POST:
                mixture = self.model.is_mixture(piece.layer)
                sizes.append(memory.layer_transient(arguments[0], mixture, *arguments[1:], self.cut.mlp_chunks))
            elif piece.part == Part.HEAD:
                saved = memory.head_activations(*arguments) - self._residual
                deferred = saved if piece.part in self.cut.deferred else 0.0
                sizes.append(memory.head_transient(*arguments) + deferred)
            elif piece.part == Part.ATTENTION:
                sizes.append(memory.attention_inputs(*arguments))
        return max(sizes)

    def _input(self, part: Part) -> float:
        """What a part needs to be computed (again)."""
        arguments = (self.model, self.training, self.shard)
        if part == Part.ATTENTION:
            return memory.attention_inputs(*arguments)
        return self._residual + (memory.attention_output(*arguments) if part == Part.POST else 0.0)

    def _saved(self, piece: Piece, before: Piece | None) -> float:
        """What a part leaves for its backward when nothing is repeated; the attention output is saved once
        where both its producer and its consumer are in the stage.
        """
        arguments = (self.model, self.training, self.shard)
        if piece.part == Part.EMBEDDING:
            return memory.embedding_activations(*arguments)
        if piece.part == Part.HEAD:
            return memory.head_activations(*arguments)
        output, inputs = memory.attention_output(*arguments), memory.attention_inputs(*arguments)
        core = memory.attention_core(*arguments)
        if piece.part == Part.ATTENTION:
            return inputs + output + core
        if piece.part == Part.POST:
            layer = memory.layer_working_set(self.model, self.model.is_mixture(piece.layer), *arguments[1:])
            rest = layer - 2 * self._residual - inputs - output - core
            return rest if before is not None and before.part == Part.ATTENTION else rest + output
        return self._residual

    @cached_property
    def _residual(self) -> float:
        return memory.layer_input(self.model, self.training, self.shard)

    @cached_property
    def _shipped(self) -> float:
        weights = sum(matrix.parameters for matrix in qkv_matrices(self.model))
        return self.training.element_bytes * weights / self.shard.tensor


def _pieces(stage: Stage) -> tuple[Piece, ...]:
    assert isinstance(stage, PartStage)
    return stage.pieces


def _matrices(model: Model, piece: Piece) -> tuple[Matrix, ...]:
    before = qkv_matrices(model)
    if piece.part == Part.QKV:
        return before
    if piece.part == Part.POST:
        return layer_matrices(model, model.is_mixture(piece.layer))[len(before) :]
    return ()
