"""What every op does to a rank's memory: bytes taken at its start, bytes given back at its end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import StageSizes
from pipesim.ir.graph import OpGraph
from pipesim.ir.op import Kind

Bytes = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MemoryEffects:
    """Activation bytes per node: ``takes`` at its start, ``gives`` back at its end."""

    takes: Bytes
    gives: Bytes


def activation_effects(graph: OpGraph, sizes: StageSizes) -> MemoryEffects:
    """Activations live from F's start until B's end; with I and W apart, W keeps its part until its own end.

    A recomputation brings back what it had saved, until the backward that follows it ends. In an overlapped
    pair both ops take at the pair's start and give at its end. What is offloaded is gone when the copy ends, and
    there again when the copy back starts.
    """
    kept, late, again = sizes.activations, sizes.weight_grad_activations, sizes.recomputed
    takes, gives = np.zeros((len(Kind), len(kept))), np.zeros((len(Kind), len(kept)))
    takes[Kind.F] = kept
    takes[Kind.RECOMPUTE] = again
    takes[Kind.I] = np.maximum(late - kept - again, 0.0)
    gives[Kind.B] = kept
    gives[Kind.I] = kept - late + takes[Kind.I]
    gives[Kind.W] = late
    gives[Kind.OFFLOAD] = takes[Kind.RELOAD] = kept
    effects = MemoryEffects(graph.lookup(takes), graph.lookup(gives))
    if again.any():
        _return_recomputed(graph, again, effects.gives)
    first = np.flatnonzero(graph.paired)
    effects.takes[first] += effects.takes[first + 1]
    effects.takes[first + 1] = 0.0
    effects.gives[first + 1] += effects.gives[first]
    effects.gives[first] = 0.0
    return effects


def _return_recomputed(graph: OpGraph, again: Bytes, gives: Bytes) -> None:
    """Backwards that follow a RECOMPUTE also give back what it brought."""
    kind, stage, microbatch = graph.kind, graph.stage, graph.microbatch
    recomputed = np.zeros((len(again), graph.microbatches), bool)
    nodes = np.flatnonzero(kind == Kind.RECOMPUTE)
    recomputed[stage[nodes], microbatch[nodes]] = True
    backward = np.flatnonzero((kind == Kind.I) | (kind == Kind.B))
    chosen = backward[recomputed[stage[backward], microbatch[backward]]]
    gives[chosen] += again[stage[chosen]]
