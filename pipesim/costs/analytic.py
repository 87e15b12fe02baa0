"""The analytic cost model: a model, a cluster and a way of training in, `Costs` per stage out.

Nothing here is fitted to end-to-end measurements: kernels and links are priced by their own measurements (see
the catalog), and a stage is the sum of its kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipesim.costs.costs import Costs, StageSizes, StageTimes
from pipesim.costs.layer import LayerCosts, LayerTimes
from pipesim.costs.links import crosses_nodes, pipeline_hops
from pipesim.costs.state import Holding, StateCosts
from pipesim.hardware.cluster import Cluster
from pipesim.hardware.layout import Layout
from pipesim.workload import memory
from pipesim.workload.flops import step_flops
from pipesim.workload.model import Model
from pipesim.workload.parameters import Count, embedding_parameters, head_parameters, layer_parameters
from pipesim.workload.partition import layer_ranges, partition
from pipesim.workload.training import Training

# NCCL reserves 342-392 MB (ai-dynamo/aiconfigurator, system files). The size of a CUDA context with its loaded
# kernels is an estimate; it varies with driver and libraries between 0.3 and 0.8 GB.
NCCL_BYTES = 0.4e9
CONTEXT_BYTES = 0.5e9


@dataclass(frozen=True)
class Work:
    """What one step does over all GPUs: floating-point operations (see `pipesim.workload.flops`), tokens and
    sequences.
    """

    model_flops: float
    hardware_flops: float
    tokens: int
    samples: int


def step_work(model: Model, training: Training) -> Work:
    """The work of one step, for throughput, MFU and HFU."""
    flops = step_flops(model, training.global_batch, training.recompute, training.flash_attention)
    samples = training.global_batch
    return Work(flops.model, flops.hardware, samples * model.sequence, samples)


def analytic_costs(
    model: Model,
    cluster: Cluster,
    layout: Layout,
    training: Training,
    stages: int,
    layers_per_stage: Sequence[int] | None = None,
    holders: Sequence[Sequence[int]] | None = None,
) -> Costs:
    """Times and sizes of every stage for one micro-batch on one GPU, and the links between ranks.

    ``layers_per_stage`` is an explicit partition (default: even). ``holders`` lists for every stage the pipeline
    ranks that hold its weights (default: stage s on rank s mod P); with two or more, as in bidirectional
    schedules, gradients are reduced over all of them and ZeRO shards over them too.

    Raises ConfigError when the partition does not fit or the GPU lacks the precision.
    """
    counts = partition(model.layers, stages, layers_per_stage)
    placed = _holders(stages, layout.pipeline, holders)
    pieces = _pieces(model, counts, own_vocabulary=set(placed[0]) != set(placed[-1]))
    times = _stage_times(LayerCosts(model, cluster, layout, training), pieces)
    holding = [Holding(piece.parameters, ranks) for piece, ranks in zip(pieces, placed, strict=True)]
    state = StateCosts(cluster, layout, training)
    return Costs(
        times=_times(times, state, holding, _tied(model, cluster, layout, training, placed)),
        sizes=_sizes(model, layout, training, pieces, state, holding),
        hops=pipeline_hops(cluster, layout, training.scatter_gather, _sequence_parallel(layout, training)),
        buffers_bytes=np.full(layout.pipeline, _buffers(model, cluster, layout, training, pieces)),
        capacity_bytes=cluster.gpu.memory_bytes,
    )


@dataclass(frozen=True)
class _Piece:
    """What a stage is made of."""

    dense: int
    mixture: int
    embedding: bool
    head: bool
    parameters: Count


def _holders(stages: int, ranks: int, holders: Sequence[Sequence[int]] | None) -> list[tuple[int, ...]]:
    if holders is None:
        return [(stage % ranks,) for stage in range(stages)]
    return [tuple(sorted(set(stage_ranks))) for stage_ranks in holders]


def _pieces(model: Model, counts: Sequence[int], own_vocabulary: bool) -> list[_Piece]:
    """Each stage's layers by kind and its parameters; the last of several ranks has its own vocabulary."""
    layer = {mixture: layer_parameters(model, mixture) for mixture in (False, True)}
    own = None if not (model.tied_embeddings and own_vocabulary) else True
    pieces = []
    for stage, indices in enumerate(layer_ranges(counts)):
        mixture = sum(model.is_mixture(index) for index in indices)
        first, last = stage == 0, stage == len(counts) - 1
        parameters = sum([layer[model.is_mixture(index)] for index in indices], Count())
        parameters += embedding_parameters(model) if first else Count()
        parameters += head_parameters(model, own) if last else Count()
        pieces.append(_Piece(len(indices) - mixture, mixture, first, last, parameters))
    return pieces


def _stage_times(costs: LayerCosts, pieces: Sequence[_Piece]) -> list[LayerTimes]:
    dense = costs.layer() if any(piece.dense for piece in pieces) else LayerTimes()
    mixture = costs.layer(mixture=True) if any(piece.mixture for piece in pieces) else LayerTimes()
    ends = {"embedding": costs.embedding(), "head": costs.head()}
    return [
        dense.times(piece.dense)
        + mixture.times(piece.mixture)
        + (ends["embedding"] if piece.embedding else LayerTimes())
        + (ends["head"] if piece.head else LayerTimes())
        for piece in pieces
    ]


def _times(times: Sequence[LayerTimes], state: StateCosts, holding: Sequence[Holding], tied_s: float) -> StageTimes:
    phases = {
        name: [getattr(stage, name) for stage in times]
        for name in ("forward", "input_grad", "weight_grad", "recompute")
    }
    arrays = {name: np.array([phase.seconds for phase in column]) for name, column in phases.items()}
    arrays |= {
        f"{name}_collective": np.array([phase.collective_s for phase in column]) for name, column in phases.items()
    }
    reduce_grad = np.array([state.reduce_seconds(held) for held in holding], dtype=np.float64)
    reduce_grad[[0, -1]] += tied_s
    return StageTimes(
        **arrays,
        reduce_grad=reduce_grad,
        unshard=np.array([state.unshard_seconds(held) for held in holding], dtype=np.float64),
        optimizer=np.array([state.optimizer_seconds(held) for held in holding]),
    )


def _sizes(
    model: Model,
    layout: Layout,
    training: Training,
    pieces: Sequence[_Piece],
    state: StateCosts,
    holding: Sequence[Holding],
) -> StageSizes:
    shard = state.shard
    resident = [state.resident(held) for held in holding]
    activations = _Activations(model, training, shard)
    message = training.element_bytes * memory.tokens(model, training, shard) * model.hidden
    return StageSizes(
        weights=np.array([each.weights for each in resident]),
        gradients=np.array([each.gradients for each in resident]),
        optimizer=np.array([each.optimizer for each in resident]),
        unsharded=np.array([state.unsharded_bytes(held) for held in holding], dtype=np.float64),
        activations=np.array([activations.kept(piece) for piece in pieces]),
        weight_grad_activations=np.array([activations.for_weight_grad(piece) for piece in pieces]),
        recomputed=np.array([activations.recomputed(piece) for piece in pieces]),
        message=np.full(len(pieces), message),
    )


@dataclass(frozen=True)
class _Activations:
    """Activation bytes of whole stages."""

    model: Model
    training: Training
    shard: memory.Shard

    def kept(self, piece: _Piece) -> float:
        """What a stage's forward leaves behind for one micro-batch."""
        total = self._layers(memory.layer_activations, piece)
        if piece.embedding:
            total += memory.embedding_activations(self.model, self.training, self.shard)
        if piece.head:
            total += memory.head_activations(self.model, self.training, self.shard)
        return total

    def for_weight_grad(self, piece: _Piece) -> float:
        """What W still needs after I. Under recomputation this can be more than was kept."""
        total = self._layers(memory.weight_grad_activations, piece)
        return total + (memory.head_activations(self.model, self.training, self.shard) if piece.head else 0.0)

    def recomputed(self, piece: _Piece) -> float:
        """What one layer's recomputation brings back at a time."""
        kinds = [mixture for mixture, count in ((False, piece.dense), (True, piece.mixture)) if count]
        arguments = [(self.model, mixture, self.training, self.shard) for mixture in kinds]
        returned = [memory.layer_working_set(*each) - memory.layer_activations(*each) for each in arguments]
        return max(returned, default=0.0)

    def _layers(self, price: memory.LayerBytes, piece: _Piece) -> float:
        total = 0.0
        for mixture, count in ((False, piece.dense), (True, piece.mixture)):
            if count:
                total += count * price(self.model, mixture, self.training, self.shard)
        return total


def _tied(
    model: Model,
    cluster: Cluster,
    layout: Layout,
    training: Training,
    placed: Sequence[tuple[int, ...]],
) -> float:
    """Seconds to add up the gradients of a vocabulary matrix that lives on the first and the last stage."""
    first, last = placed[0][0], placed[-1][-1]
    if not model.tied_embeddings or model.head == "none" or set(placed[0]) == set(placed[-1]):
        return 0.0
    return StateCosts(cluster, layout, training).pair_reduce_seconds(
        model.vocab * model.hidden / layout.tensor, bool(crosses_nodes(layout)[first, last])
    )


def _sequence_parallel(layout: Layout, training: Training) -> bool:
    return training.sequence_parallel and layout.tensor > 1


def _buffers(model: Model, cluster: Cluster, layout: Layout, training: Training, pieces: Sequence[_Piece]) -> float:
    """CUDA context, NCCL, and what one layer's backward works in besides what its forward kept."""
    shard = memory.Shard(layout.tensor, layout.context, layout.expert, _sequence_parallel(layout, training))
    kinds = {mixture for piece in pieces for mixture, count in ((False, piece.dense), (True, piece.mixture)) if count}
    working = max((memory.layer_transient(model, mixture, training, shard) for mixture in kinds), default=0.0)
    return CONTEXT_BYTES + (NCCL_BYTES if layout.world_size > 1 else 0.0) + working
