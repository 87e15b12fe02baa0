"""What every op does to a rank's memory: bytes taken at its start, bytes given back at its end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import StageSizes, Variants
from pipesim.ir.graph import OpGraph
from pipesim.ir.op import Kind

Bytes = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MemoryEffects:
    """Activation bytes per node: ``takes`` at its start, ``gives`` back at its end."""

    takes: Bytes
    gives: Bytes


def activation_effects(graph: OpGraph, sizes: StageSizes, variants: Variants | None = None) -> MemoryEffects:
    """Activations live from F's start until B's end; with I and W apart, W keeps its part until its own end.

    A recomputation brings back what it had saved, until the backward that follows it ends. In an overlapped
    pair both ops take at the pair's start and give at its end. What is offloaded is gone when the copy ends, and
    there again when the copy back starts. Where micro-batches are not all alike, their ``variants`` have the sizes.
    """
    if variants is None:
        tables, of = _tables(sizes), None
        again = sizes.recomputed[None]
    else:
        tables, of = variants.rows(lambda each: _tables(each.sizes)).swapaxes(0, 1), variants.of
        again = variants.rows(lambda each: each.sizes.recomputed)
    effects = MemoryEffects(graph.lookup(tables[0], of), graph.lookup(tables[1], of))
    if again.any():
        _return_recomputed(graph, again, of, effects.gives)
    first = np.flatnonzero(graph.paired)
    effects.takes[first] += effects.takes[first + 1]
    effects.takes[first + 1] = 0.0
    effects.gives[first + 1] += effects.gives[first]
    effects.gives[first] = 0.0
    return effects


def _tables(sizes: StageSizes) -> Bytes:
    """What ops take and what they give back by kind and stage, shape (2, kinds, S)."""
    kept, late, again = sizes.activations, sizes.weight_grad_activations, sizes.recomputed
    takes, gives = tables = np.zeros((2, len(Kind), len(kept)))
    takes[Kind.F] = kept
    takes[Kind.RECOMPUTE] = again
    takes[Kind.I] = np.maximum(late - kept - again, 0.0)
    gives[Kind.B] = kept
    gives[Kind.I] = kept - late + takes[Kind.I]
    gives[Kind.W] = late
    gives[Kind.OFFLOAD] = takes[Kind.RELOAD] = kept
    return tables


def _return_recomputed(graph: OpGraph, again: Bytes, of: NDArray[np.int64] | None, gives: Bytes) -> None:
    """Backwards that follow a RECOMPUTE also give back what it brought: ``again`` (K, S), by variant and stage."""
    kind, stage, microbatch = graph.kind, graph.stage, graph.microbatch
    recomputed = np.zeros((again.shape[1], graph.microbatches), bool)
    nodes = np.flatnonzero(kind == Kind.RECOMPUTE)
    recomputed[stage[nodes], microbatch[nodes]] = True
    backward = np.flatnonzero((kind == Kind.I) | (kind == Kind.B))
    chosen = backward[recomputed[stage[backward], microbatch[backward]]]
    gives[chosen] += again[0 if of is None else of[microbatch[chosen]], stage[chosen]]
