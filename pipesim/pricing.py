"""From a config to what its ops cost: part of the api layer, where config types stop."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pipesim.costs.costs import Costs
from pipesim.costs.unit import unit_costs
from pipesim.ir.placement import Placement
from pipesim.metrics.collect import Work

if TYPE_CHECKING:
    from pipesim.config.document import AbstractConfig, ClusterConfig


def costs_of(config: AbstractConfig | ClusterConfig, placement: Placement) -> tuple[Costs, Work | None]:
    """Costs of either form, and what a step gets done where that is known."""
    from pipesim.config.document import AbstractConfig

    if isinstance(config, AbstractConfig):
        return abstract_costs(config, placement), None
    return cluster_costs(config, placement)


def abstract_costs(config: AbstractConfig, placement: Placement) -> Costs:
    """Costs of the abstract form."""
    costs, memory = config.costs, config.memory
    return unit_costs(
        placement.stages,
        placement.ranks,
        chunks=placement.chunks,
        forward=costs.forward,
        input_grad=costs.input_grad,
        weight_grad=costs.weight_grad,
        p2p=costs.p2p,
        activation=memory.activation,
        weight_grad_share=memory.weight_grad_share,
        optimizer=costs.optimizer,
        reconstruct=costs.reconstruct,
        weights=memory.weights,
    )


def cluster_costs(config: ClusterConfig, placement: Placement) -> tuple[Costs, Work]:
    """Costs of a model on a cluster, and what a step gets done."""
    from pipesim.costs.analytic import analytic_costs, step_work
    from pipesim.workload.partition import partition

    model, cluster = config.build_model(), config.build_cluster()
    layout, training = config.build_layout(), config.build_training()
    layers = partition(model.layers, placement.stages, config.training.partition)
    costs = analytic_costs(model, cluster, layout, training, placement.stages, layers, holders(placement))
    costs = replace(costs, gradient_buckets=np.maximum(1, np.array(layers, np.int64)))
    if config.costs is not None:
        from pipesim.costs.profile import profile_costs

        costs = profile_costs(config.directory / config.costs.profile, costs, layers)
    done = step_work(model, training)
    work = Work(
        samples=done.samples,
        tokens=done.tokens,
        model_flops=done.model_flops,
        hardware_flops=done.hardware_flops,
        gpus=layout.world_size,
        peak_flops=cluster.gpu.peak(training.precision),
    )
    return costs, work


def holders(placement: Placement) -> list[list[int]]:
    """Ranks that hold each stage."""
    return [np.flatnonzero(column).tolist() for column in placement.holds.T]
