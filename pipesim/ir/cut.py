"""Cuts of a model into stages that are not runs of whole layers.

Most schedules give each stage some layers, and nothing more need be said. Where a stage ends inside a layer
(attention on another rank than the weights around it), the placement carries a `Cut`: what every stage is made
of. Costs are priced from it; programs, graphs and engines see stages like any others.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Part(enum.Enum):
    """What a transformer can be cut into; the middle four make one layer, in this order."""

    EMBEDDING = "embedding"
    NORM = "norm"  # the norm in front of attention
    QKV = "qkv"  # the projection to queries, keys and values
    ATTENTION = "attention"  # the core: scores, softmax, context
    POST = "post"  # output projection, and the feed-forward block with its norm
    HEAD = "head"  # final norm, vocabulary projection, loss


LAYER = (Part.NORM, Part.QKV, Part.ATTENTION, Part.POST)
WITHOUT_ATTENTION = frozenset(LAYER) - {Part.ATTENTION}
"""What recomputation repeats where the attention core is too long to run twice."""


class Piece(NamedTuple):
    """A part of one layer; ``layer`` is -1 for the embedding and the head."""

    part: Part
    layer: int = -1


@dataclass(frozen=True, eq=False)
class Cut:
    """What each of S stages is made of, and how its parts are run.

    ``time`` and ``activation`` are relative weights of the stages, shape (S,): how a number given for one
    rank's whole share is divided among stages where no model is known, and (in whole numbers) how activations
    in flight are counted. ``repeated``: parts that the backward computes again; None leaves that to the
    training options. ``deferred``: parts whose forward runs at the start of their backward. ``mlp_chunks``: the
    feed-forward block works through the sequence in so many pieces.
    """

    pieces: Sequence[tuple[Piece, ...]]
    time: NDArray[np.float64]
    activation: NDArray[np.int8]
    repeated: frozenset[Part] | None = None
    deferred: frozenset[Part] = frozenset()
    mlp_chunks: int = 1

    def shares(self, weights: NDArray[np.float64] | NDArray[np.int8], ranks: int) -> NDArray[np.float64]:
        """Each stage's part of one rank's whole share by such weights, shape (S,)."""
        return np.asarray(weights * (ranks / float(weights.sum())), np.float64)
