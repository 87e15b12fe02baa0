"""HelixPipe: attention runs on other ranks than the weights around it, so that one layer's attention of P
micro-batches runs on all P ranks at a time.

The weights wind round the ranks: those between two attentions (output projection and feed-forward block of
layer l-1, norm and QKV projection of layer l) are stage 2l and live on rank l mod P. Attention of layer l is
stage 2l+1; it holds no weights and runs on rank (l+d+1) mod P for micro-batches with offset d, which is their
route. Every micro-batch makes 2L hops, less the few between stages on one rank.

The released code posts sends and receives in pairs after an op and waits for both right before the next op of the
same fold; here messages travel on their own and only the op that needs one waits. Replayed with P = 4, 16 layers
and hops of up to two thirds of a layer's forward, the two are equal for two folds; for one fold, waiting for one's
own sends costs up to 2 % of the step more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.cut import LAYER, WITHOUT_ATTENTION, Cut, Part, Piece
from pipesim.ir.op import Kind
from pipesim.ir.placement import Placement
from pipesim.ir.program import Program
from pipesim.schedules.base import Schedule, Setting, Theory, option, require
from pipesim.schedules.registry import register
from pipesim.schedules.shapes import Ops, in_sequence, ops

QKV_SHARE = 0.25
"""Of a layer's linear work, forward: 6 b s h^2 of 24 b s h^2."""


class Run(NamedTuple):
    """For every fold in turn: the stages, each with the repeat that its micro-batch is of, at one offset."""

    offset: int
    stages: tuple[tuple[int, int], ...]


@register
@dataclass(frozen=True)
class Helix(Schedule):
    """All forwards, then all backwards in reverse order, with attention spread over the ranks.

    P x folds micro-batches go through the model together; more of them repeat that. With two folds, one's
    messages travel while the other computes.
    """

    name: ClassVar[str] = "helix"
    citation: ClassVar[str] = (
        "Zhang et al., HelixPipe, PPoPP 2026, arXiv 2507.00394; placement and order as in "
        "code-tunnel/Megatron-LM, branch dev: megatron/core/pipeline_parallel/attn_pipe_schedule.py"
    )
    summary: ClassVar[str] = "attention of one layer on all ranks at once, for long sequences"
    requires: ClassVar[str] = "P >= 2, layers a multiple of P, M a multiple of P x folds"
    bubble: ClassVar[str] = "one fold: (P-1)(t_pre + t_post) per direction; two: (2P-3) t_post with weights shipped"
    memory: ClassVar[str] = "M on every rank"

    folds: int = option(2, "micro-batches that alternate at one offset, so that messages hide behind computation")
    ship_weights: bool = option(True, "send the weights of QKV to the attention, rather than queries, keys and values")
    layers: int | None = option(None, "layers of the model, a multiple of P; default: the model's, or P without one")
    recompute: Literal["without-attention", "training"] = option(
        "without-attention", "repeat everything but the attention core in the backward, or what training says"
    )
    mlp_chunks: int = option(1, "pieces of the sequence that the feed-forward block goes through one by one")
    attention_share: float = option(0.5, "attention core's part of a layer's time, where costs are single numbers")

    def check(self, ranks: int, microbatches: int) -> None:
        """Two ranks or more, whole rounds of P x folds micro-batches, whole turns of P layers."""
        require(ranks >= 2, f"{self.name}: needs at least 2 ranks, found {ranks}")
        require(self.folds >= 1, f"{self.name}: folds must be at least 1, found {self.folds}")
        require(self.mlp_chunks >= 1, f"{self.name}: mlp_chunks must be at least 1, found {self.mlp_chunks}")
        require(self.attention_share <= 1, f"{self.name}: attention_share is at most 1, found {self.attention_share}")
        step = ranks * self.folds
        require(
            microbatches % step == 0 and microbatches > 0,
            f"{self.name}: {microbatches} micro-batches are not a multiple of ranks x folds = {step}: use "
            + " or ".join(str(n) for n in (microbatches // step * step, (microbatches // step + 1) * step) if n)
            + (" micro-batches, or folds: 1" if self.folds > 1 and microbatches % ranks == 0 else " micro-batches"),
        )
        self._layers(ranks)

    def _layers(self, ranks: int) -> int:
        layers = self.layers if self.layers is not None else ranks
        low, high = layers // ranks * ranks, (layers // ranks + 1) * ranks
        require(
            layers % ranks == 0 and layers > 0,
            f"{self.name}: {layers} layers are not a multiple of {ranks} ranks: use "
            + " or ".join(str(n) for n in (low, high) if n)
            + " layers, or a number of ranks that divides the layers",
        )
        return layers

    def fit(self, layers: int) -> Helix:
        """With the model's number of layers."""
        require(
            self.layers in (None, layers),
            f"{self.name}: layers is {self.layers}, but the model has {layers}; leave the option out",
        )
        return replace(self, layers=layers)

    def stages(self, ranks: int) -> int:
        """Two per layer, and the one after the last."""
        return 2 * (self.layers if self.layers is not None else ranks) + 1

    def chunks_per_rank(self) -> int:
        """At least a layer's two; `stages` knows better."""
        return 2

    def placement(self, ranks: int) -> Placement:
        """Route d is that of micro-batches with offset d."""
        layers = self._layers(ranks)
        stage = np.arange(2 * layers + 1)
        layer, attention = stage // 2, stage % 2
        offset = np.arange(ranks)[:, None]
        rank_of = (layer + attention * (offset + 1)) % ranks
        return Placement.of(ranks, rank_of, weighted=attention == 0, cut=self._cut(layers))

    def _cut(self, layers: int) -> Cut:
        before, within = (LAYER[:1], LAYER[1:3]) if self.ship_weights else (LAYER[:2], LAYER[2:3])
        pieces: list[tuple[Piece, ...]] = []
        first: tuple[Piece, ...] = (Piece(Part.EMBEDDING),)
        for layer in range(layers):
            pieces.append(first + tuple(Piece(part, layer) for part in before))
            pieces.append(tuple(Piece(part, layer) for part in within))
            first = (Piece(Part.POST, layer),)
        pieces.append((*first, Piece(Part.HEAD)))
        activation = np.ones(len(pieces), np.int8)
        activation[0] = 0  # what it keeps is counted with neither attention nor weights: next to nothing
        repeated = WITHOUT_ATTENTION if self.recompute == "without-attention" else None
        return Cut(
            pieces,
            self._time(layers),
            activation,
            repeated,
            deferred=frozenset({Part.HEAD}),
            mlp_chunks=self.mlp_chunks,
        )

    def _time(self, layers: int) -> NDArray[np.float64]:
        linear = 1.0 - self.attention_share
        pre, post = QKV_SHARE * linear, (1.0 - QKV_SHARE) * linear
        if self.ship_weights:
            before, within = 0.0, self.attention_share + pre
        else:
            before, within = pre, self.attention_share
        stages = np.tile([post + before, within], layers)
        return np.concatenate([[before], stages[1:], [post]])

    def routes(self, ranks: int, microbatches: int) -> NDArray[np.int32]:
        """The offset of every micro-batch: its number is (repeat x P + offset) x folds + fold."""
        return (np.arange(microbatches) // self.folds % ranks).astype(np.int32)

    def program(self, setting: Setting) -> Program:
        """Each rank's forwards as listed by `forward_runs`; its backwards are the exact reverse."""
        p, m = setting.ranks, setting.microbatches
        self.check(p, m)
        repeats = m // (p * self.folds)
        columns = [self._rank_ops(list(forward_runs(r, p, self._layers(p), repeats)), p) for r in range(p)]
        return Program.from_arrays(self.placement(p), columns, m, self.routes(p, m))

    def _rank_ops(self, runs: list[Run], ranks: int) -> Ops:
        listed = [(s, (k * ranks + run.offset) * self.folds, i) for i, run in enumerate(runs) for s, k in run.stages]
        stage, first, number = np.array(listed, np.int64).T
        # Fold by fold inside a run: sort by run, then fold; stages of a run stay in order.
        fold = np.repeat(np.arange(self.folds), len(stage))
        order = np.lexsort((np.tile(np.arange(len(stage)), self.folds), fold, np.tile(number, self.folds)))
        stages, microbatches = np.tile(stage, self.folds)[order], (np.tile(first, self.folds) + fold)[order]
        return in_sequence(ops(Kind.F, stages, microbatches), ops(Kind.B, stages[::-1], microbatches[::-1]))

    def theory(self, setting: Setting) -> Theory:
        """Equal stages and free transfers; folds 1, or 2 with the QKV weights shipped and attention the longest.

        Derived by replaying the released order (the paper's equations are about 1F1B's imbalance). The bubble
        of a direction depends neither on the number of layers nor on repeats.
        """
        p, m = setting.ranks, setting.microbatches
        stages = self.stages(p)
        shares = self._time(stages // 2) * (p / (stages // 2))
        costs = setting.costs
        forward = shares if costs is None else costs.forward.astype(float)
        backward = 2 * shares if costs is None else (costs.input_grad + costs.weight_grad).astype(float)
        bubbles = [_bubble(each, p, self.folds) for each in (forward, backward)]
        fraction = None
        if None not in bubbles:
            idle, busy = sum(b for b in bubbles if b is not None), m * float((forward + backward).sum()) / p
            fraction = idle / (idle + busy)
        return Theory(
            source="replay of the order of code-tunnel/Megatron-LM attn_pipe_schedule.py (branch dev)",
            bubble_fraction=fraction,
            peak_in_flight=[m] * p,
        )


def _bubble(times: NDArray[np.float64], ranks: int, folds: int) -> float | None:
    """Idle time of a rank in one direction, or None where no closed form is known."""
    pre, post, attention = times[0], times[-1], times[1::2]
    middle = times[2:-1:2]
    slack = 1e-6 * float(times.max())
    if np.ptp(attention) > slack or (abs(middle - pre - post) > slack).any():
        return None
    if folds == 1:
        return float((ranks - 1) * (pre + post))
    if folds == 2 and pre <= slack and attention[0] >= post - slack:
        return float((2 * ranks - 3) * post)
    return None


def forward_runs(rank: int, ranks: int, layers: int, repeats: int) -> Iterator[Run]:
    """Forwards of one rank in the order of attn_pipe_schedule.py, written out in the order of its loops.

    A run is worked through fold by fold; runs of several stages are an attention with the weights that follow
    it on the same rank, or weights with the attention that follows them.
    """
    top = layers - ranks  # first layer of the last turn
    if rank == 0:
        yield Run(0, ((0, 0),))
    for k in range(repeats):
        for d in range(rank - 1, -1, -1):
            yield _attention_run(rank - 1 - d, rank, d, k)
        last_round = ((2 * layers, k - 1),) if rank == 0 and k else ()
        yield from _weight_runs(rank, ranks, k, last_round)
        for base in range(0, top, ranks):
            for d in range(ranks - 2, -1, -1):
                yield _attention_run(base + rank + ranks - 1 - d, base + ranks + rank, d, k)
            yield from _weight_runs(base + ranks + rank, ranks, k)
        for d in range(ranks - 2, rank - 1, -1):
            run = _attention_run(top + rank + ranks - 1 - d, layers, d, k)
            again = ((0, k + 1),) if d == 0 and k + 1 < repeats else ()
            yield Run(d, run.stages + again)
    if rank == 0:
        for d in range(1, ranks):
            yield Run(d, ((2 * layers, repeats - 1),))


def _attention_run(layer: int, weights: int, offset: int, repeat: int) -> Run:
    """Attention of a layer; at offset 0 the weights in front of layer ``weights`` follow on the same rank."""
    follows = ((2 * weights, repeat),) if offset == 0 else ()
    return Run(offset, ((2 * layer + 1, repeat), *follows))


def _weight_runs(layer: int, ranks: int, repeat: int, before: tuple[tuple[int, int], ...] = ()) -> Iterator[Run]:
    """The weights in front of a layer for offsets 1.., the last of which has its attention on the same rank."""
    for d in range(1, ranks):
        local = ((2 * layer + 1, repeat),) if d == ranks - 1 else ()
        yield Run(d, (*before, (2 * layer, repeat), *local))
