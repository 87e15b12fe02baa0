"""Training without a flush: which weights a micro-batch runs with, when they change while it is on its way.

A micro-batch's backward needs the weights of its forward. Until it comes, the stage's optimizer has stepped
some times, so these weights have to be kept or recovered.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipesim.ir.graph import OpGraph
from pipesim.ir.op import BACKWARD_KINDS, GRADIENT_KINDS, Kind
from pipesim.ir.program import Program

Nodes = NDArray[np.int64]

_KINDS = (Kind.F, Kind.OPT, Kind.RECONSTRUCT, *BACKWARD_KINDS, *GRADIENT_KINDS)


class WeightPolicy(enum.StrEnum):
    """How a backward gets at the weights of its forward.

    ``STASH``: forwards use the newest weights, and every version stays until its last backward (PipeDream,
    arXiv 1806.03377). ``TWO_BUFFERS``: all micro-batches of one update use the version before the
    newest that they could, so two are enough (PipeDream-2BW, arXiv 2006.09503). ``AVERAGE``:
    forwards use the newest weights, and a moving average of gradients takes the backward back to them
    (LayerPipe2, arXiv 2512.08160): one buffer as large as the weights, whatever the delay.
    """

    STASH = "stash"
    TWO_BUFFERS = "two-buffers"
    AVERAGE = "average"


def stages_on_ranks(ops: Program | OpGraph) -> Iterator[tuple[int, int, Nodes]]:
    """(rank, stage, nodes) of every stage on every rank that runs it: what uses or changes its weights, by number."""
    nodes = np.flatnonzero(np.isin(ops.kind, _KINDS) & (ops.stage >= 0))
    key = ops.rank[nodes].astype(np.int64) * ops.placement.stages + ops.stage[nodes]
    order = np.argsort(key, kind="stable")
    cuts = np.flatnonzero(np.diff(key[order], prepend=-1))
    for mine in np.split(nodes[order], cuts[1:]):
        if len(mine):
            yield int(ops.rank[mine[0]]), int(ops.stage[mine[0]]), mine


def stale_stages(program: Program) -> NDArray[np.bool_]:
    """Stages whose weights change between the forward and the backward of some micro-batch, shape (S,)."""
    stale = np.zeros(program.placement.stages, bool)
    for _, stage, nodes in stages_on_ranks(program):
        kind, microbatch = program.kind[nodes], program.microbatch[nodes]
        updates = np.cumsum(kind == Kind.OPT)
        before = np.zeros(program.microbatches, np.int64)
        before[microbatch[kind == Kind.F]] = updates[kind == Kind.F]
        backward = np.isin(kind, BACKWARD_KINDS)
        stale[stage] |= bool((updates[backward] > before[microbatch[backward]]).any())
    return stale
