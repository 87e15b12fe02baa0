"""The analytic cost model: a model, a cluster and a way of training in, `Costs` per stage out.

Nothing here is fitted to end-to-end measurements: kernels and links are priced by their own measurements (see
the catalog), and a stage is the sum of its kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import SLOTS, Costs, Sharing, StageSizes, StageTimes
from pipesim.costs.layer import LayerCosts
from pipesim.costs.links import collective_part, crosses_nodes, pipeline_hops, rank_ports
from pipesim.costs.phases import LayerTimes
from pipesim.costs.stages import Stage, StageActivations, build_stages
from pipesim.costs.state import StateCosts
from pipesim.hardware import Cluster, Layout
from pipesim.ir.cut import Cut
from pipesim.workload.flops import step_flops
from pipesim.workload.model import Model
from pipesim.workload.parameters import layer_parameters
from pipesim.workload.partition import partition
from pipesim.workload.training import Training

Item = TypeVar("Item")

_PHASES = ("forward", "input_grad", "weight_grad", "recompute", "overlap")


@dataclass(frozen=True)
class Work:
    """What one step does over all GPUs: floating-point operations (see `pipesim.workload.flops`), tokens and
    sequences.
    """

    model_flops: float
    hardware_flops: float
    tokens: int
    samples: int


def step_work(model: Model, training: Training, cut: Cut | None = None) -> Work:
    """The work of one step, for throughput, MFU and HFU."""
    repeated = cut.repeated if cut is not None else None
    flops = step_flops(model, training.global_batch, training.recompute, training.flash_attention, repeated)
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
    cut: Cut | None = None,
) -> Costs:
    """Times and sizes of every stage for one micro-batch on one GPU, and the links between ranks.

    ``layers_per_stage`` is an explicit partition (default: even). ``holders`` lists for every stage the
    pipeline ranks that hold its weights (default: stage s on rank s mod P); with two or more, as in
    bidirectional schedules, gradients are reduced over all of them and ZeRO shards over them too. ``cut`` says
    what stages are made of where they are not runs of layers; holders are then the ranks that run each stage.

    Raises ConfigError when the partition does not fit or the GPU lacks the precision.
    """
    ranks = holders or [(stage % layout.pipeline,) for stage in range(stages)]
    prices = LayerCosts(model, cluster, layout, training)
    state = StateCosts(cluster, layout, training)
    priced = _parts(prices, cluster, cut, ranks) if cut else _layers(prices, layers_per_stage, ranks)
    tied_s = _tied_seconds(model, layout, state, priced.stages)
    return Costs(
        times=_times(priced.times, state, priced.stages, tied_s),
        sizes=_sizes(priced.activations, state, priced.stages, priced.message_bytes),
        hops=pipeline_hops(
            cluster,
            layout,
            training.scatter_gather,
            prices.shard.sequence_parallel,
            float(np.max(priced.message_bytes)),
            training.old_nccl,
        ),
        buffers_bytes=_buffers(priced.activations, cluster, layout, priced.stages),
        capacity_bytes=cluster.gpu.memory_bytes,
        fragmentation=cluster.allowance.fragmentation,
        sharing=_sharing(cluster, layout, state, priced.stages),
    )


@dataclass(frozen=True)
class _Priced:
    """Stages, and what they cost and hold; messages as one number or per stage, shape (S,)."""

    stages: Sequence[Stage]
    times: Sequence[LayerTimes]
    activations: StageActivations
    message_bytes: float | NDArray[np.float64]


def _layers(prices: LayerCosts, layers_per_stage: Sequence[int] | None, ranks: Sequence[Sequence[int]]) -> _Priced:
    """Stages of whole layers."""
    counts = partition(prices.model.layers, len(ranks), layers_per_stage)
    built = build_stages(prices.model, counts, ranks)
    activations = StageActivations(prices.model, prices.training, prices.shard)
    return _Priced(built, _stage_times(prices, built), activations, prices.message_bytes)


def _parts(prices: LayerCosts, cluster: Cluster, cut: Cut, ranks: Sequence[Sequence[int]]) -> _Priced:
    """Stages made of parts of layers."""
    from pipesim.costs.part_stages import PartActivations, build_part_stages, message_bytes
    from pipesim.costs.parts import PartCosts

    parts = PartCosts(prices.model, cluster, prices.layout, prices.training, cut)
    built = build_part_stages(prices.model, cut, ranks)
    activations = PartActivations(prices.model, prices.training, prices.shard, cut)
    return _Priced(built, [parts.stage(s.pieces) for s in built], activations, message_bytes(parts, built))


def _stage_times(prices: LayerCosts, stages: Sequence[Stage]) -> list[LayerTimes]:
    kinds = {mixture for stage in stages for mixture, _ in stage.kinds}
    layer = {mixture: prices.layer(mixture) for mixture in kinds}
    embedding, head = prices.embedding(), prices.head()

    def together(stage: Stage) -> LayerTimes:
        total = LayerTimes()
        for mixture, count in stage.kinds:
            total += layer[mixture].times(count)
        if stage.embedding:
            total += embedding
        return total + head if stage.head else total

    return _once(stages, together, _contents)


def _times(times: Sequence[LayerTimes], state: StateCosts, stages: Sequence[Stage], tied_s: float) -> StageTimes:
    phases = {name: [getattr(each, name) for each in times] for name in _PHASES}
    arrays = {name: _array(phases[name], lambda phase: phase.seconds) for name in _PHASES}
    for name in _PHASES:
        arrays[f"{name}_collective"] = _array(phases[name], lambda phase: phase.collective_s)
    collective = {
        name: np.array(_once(stages, seconds, state.like), dtype=np.float64)
        for name, seconds in (
            ("reduce_grad", state.reduce_seconds),
            ("unshard", state.unshard_seconds),
            ("optimizer", state.optimizer_seconds),
            ("reconstruct", state.reconstruct_seconds),
        )
    }
    collective["reduce_grad"][[0, -1]] += tied_s
    sharding = _once(stages, state.sharding_seconds, state.like)
    for name, index in (("forward", 0), ("input_grad", 1)):
        arrays[name] = arrays[name] + np.array([each[index] for each in sharding], dtype=np.float64)
    return StageTimes(**arrays, **collective)


def _sizes(
    activations: StageActivations,
    state: StateCosts,
    stages: Sequence[Stage],
    message_bytes: float | NDArray[np.float64],
) -> StageSizes:
    model = activations.model

    def layerwise(stage: Stage) -> float:
        layers = [(layer_parameters(model, kind), count) for kind, count in stage.kinds]
        return state.layerwise_bytes(stage, layers, SLOTS)

    resident = _once(stages, state.resident, state.like)
    kept, needed, returned = (
        np.array(_once(stages, size, _contents), dtype=np.float64)
        for size in (activations.kept, activations.for_weight_grad, activations.recomputed)
    )
    return StageSizes(
        weights=_array(resident, lambda each: each.weights),
        gradients=_array(resident, lambda each: each.gradients),
        optimizer=_array(resident, lambda each: each.optimizer),
        unsharded=np.array(_once(stages, state.unsharded_bytes, state.like), dtype=np.float64),
        layerwise=np.array(_once(stages, layerwise, state.like), dtype=np.float64),
        activations=kept,
        weight_grad_activations=needed,
        recomputed=returned,
        message=np.full(len(stages), message_bytes, np.float64),
    )


def _sharing(cluster: Cluster, layout: Layout, state: StateCosts, stages: Sequence[Stage]) -> Sharing | None:
    """Where data-parallel collectives meet other traffic: on the network once any of them leaves its node."""
    crossing = any(_once(stages, state.leaves_node, state.like))
    reduce = np.array(_once(stages, lambda stage: state.reduce_share(stage, crossing), state.like), np.float64)
    unshard = np.array(_once(stages, lambda stage: state.unshard_share(stage, crossing), state.like), np.float64)
    if not (reduce.any() or unshard.any()):
        return None
    part = float(collective_part(cluster, layout).min()) if crossing else 1.0
    return Sharing(rank_ports(cluster, layout, crossing), part * reduce, part * unshard)


def _array(items: Sequence[Item], value: Callable[[Item], float]) -> NDArray[np.float64]:
    return np.array([value(item) for item in items], dtype=np.float64)


def _once(stages: Sequence[Stage], value: Callable[[Stage], Item], like: Callable[[Stage], Hashable]) -> list[Item]:
    """``value`` of every stage, worked out once for all stages that are ``like`` each other."""
    known: dict[Hashable, Item] = {}
    for stage in stages:
        if like(stage) not in known:
            known[like(stage)] = value(stage)
    return [known[like(stage)] for stage in stages]


def _contents(stage: Stage) -> Hashable:
    return stage.contents


def _tied_seconds(model: Model, layout: Layout, state: StateCosts, stages: Sequence[Stage]) -> float:
    """Seconds to add up the gradients of a vocabulary matrix that the first and the last stage both hold."""
    first, last = stages[0].ranks, stages[-1].ranks
    if not model.tied_embeddings or model.head == "none" or first == last:
        return 0.0
    crossing = bool(crosses_nodes(layout)[first[0], last[-1]])
    return state.pair_reduce_seconds(model.vocab * model.hidden / layout.tensor, crossing)


def _buffers(
    activations: StageActivations, cluster: Cluster, layout: Layout, stages: Sequence[Stage]
) -> NDArray[np.float64]:
    """Per rank: CUDA context, NCCL, and what a layer's backward works in besides what its forward kept."""
    fixed = cluster.allowance.outside_bytes(layout.world_size)
    buffers = np.full(layout.pipeline, fixed)
    for stage, transient in zip(stages, _once(stages, activations.transient, _contents), strict=True):
        for rank in stage.ranks:
            buffers[rank] = max(buffers[rank], fixed + transient)
    return buffers
