"""From a config to what its ops cost: part of the api layer, where config types stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import Costs
from pipesim.costs.unit import Given, unit_costs
from pipesim.ir.placement import Placement
from pipesim.metrics.collect import Work
from pipesim.schedules.base import Schedule

if TYPE_CHECKING:
    from pipesim.config.document import AbstractConfig, ClusterConfig


def costs_of(config: AbstractConfig | ClusterConfig, placement: Placement) -> tuple[Costs, Work | None]:
    """Costs of either form, and what a step gets done where that is known."""
    from pipesim.config.document import AbstractConfig

    if isinstance(config, AbstractConfig):
        return abstract_costs(config, placement), None
    return cluster_costs(config, placement)


def links_of(config: AbstractConfig | ClusterConfig) -> dict[str, Any] | None:
    """The link of every hop and group; None for the abstract form."""
    from pipesim.config.document import AbstractConfig

    if isinstance(config, AbstractConfig):
        return None
    from pipesim.costs.link_use import links_used

    training = config.build_training()
    return links_used(
        config.build_cluster(), config.build_layout(), training.scatter_gather, training.sequence_parallel
    )


def abstract_costs(config: AbstractConfig, placement: Placement) -> Costs:
    """Costs of the abstract form; a cut divides single numbers among its stages."""
    costs, memory = config.costs, config.memory
    cut, ranks, held = placement.cut, placement.ranks, placement.weighted.astype(np.int8)
    given = {name: getattr(costs, name) for name in ("forward", "input_grad", "weight_grad")}
    given |= {"activation": memory.activation, "weights": memory.weights}
    given |= {"optimizer": costs.optimizer, "reconstruct": costs.reconstruct, "offload": costs.offload or 0.0}
    if cut is not None:
        weights = {
            "activation": cut.activation,
            "offload": cut.activation,
            "weights": held,
            "optimizer": held,
            "reconstruct": held,
        }
        given = {name: _divided(value, cut.shares(weights.get(name, cut.time), ranks)) for name, value in given.items()}
    return unit_costs(
        placement.stages,
        ranks,
        chunks=placement.chunks,
        p2p=costs.p2p,
        weight_grad_share=memory.weight_grad_share,
        **given,
    )


def _divided(value: Given, shares: NDArray[np.float64]) -> Given:
    """A number divided among stages; a list already is."""
    return value if isinstance(value, Sequence) else [float(value * share) for share in shares]


def cluster_costs(config: ClusterConfig, placement: Placement) -> tuple[Costs, Work]:
    """Costs of a model on a cluster, and what a step gets done."""
    from pipesim.costs.analytic import analytic_costs, step_work
    from pipesim.costs.host import host_copies
    from pipesim.workload.partition import partition

    model, cluster, cut = config.build_model(), config.build_cluster(), placement.cut
    layout, training = config.build_layout(), config.build_training()
    layers = partition(model.layers, placement.stages, config.training.partition) if cut is None else None
    ranks = holders(placement) if cut is None else runners(placement)
    costs = analytic_costs(model, cluster, layout, training, placement.stages, layers, ranks, cut)
    if layers is not None:
        costs = replace(costs, gradient_buckets=np.maximum(1, np.array(layers, np.int64)))
    if config.costs is not None:
        from pipesim.costs.profile import profile_costs

        costs = profile_costs(config.directory / config.costs.profile, costs, layers)
    costs = replace(costs, host=host_copies(cluster, layout, costs.sizes.activations))
    done = step_work(model, training, cut)
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


def runners(placement: Placement) -> list[list[int]]:
    """Ranks that run each stage, on any route."""
    return [np.unique(column).tolist() for column in placement.rank_of.T]


def fitted(config: AbstractConfig | ClusterConfig) -> Schedule:
    """The config's schedule, set up for the model where there is one.

    Raises:
        ScheduleError: it cannot be.
    """
    from pipesim.config.document import ClusterConfig

    schedule = config.schedule.build()
    return schedule.fit(config.build_model().layers) if isinstance(config, ClusterConfig) else schedule
