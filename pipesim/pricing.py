"""From a config to what its ops cost: part of the api layer, where config types stop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipesim.costs.costs import Costs
from pipesim.costs.unit import unit_costs
from pipesim.ir.placement import Placement
from pipesim.metrics.collect import Work

if TYPE_CHECKING:
    from pipesim.config.document import AbstractConfig, ClusterConfig
    from pipesim.hardware import Cluster, Layout
    from pipesim.workload.model import Model
    from pipesim.workload.training import Training


@dataclass(frozen=True)
class Job:
    """The real thing behind a cluster config: what is trained, on what, how."""

    model: Model
    cluster: Cluster
    layout: Layout
    training: Training


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

    job = job_of(config)
    layers = partition(job.model.layers, placement.stages, config.training.partition)
    costs = analytic_costs(
        job.model, job.cluster, job.layout, job.training, placement.stages, layers, holders(placement)
    )
    costs = replace(costs, gradient_buckets=np.maximum(1, np.array(layers, np.int64)))
    if config.costs is not None:
        from pipesim.costs.profile import profile_costs

        costs = profile_costs(config.directory / config.costs.profile, costs, layers)
    done = step_work(job.model, job.training)
    work = Work(
        samples=done.samples,
        tokens=done.tokens,
        model_flops=done.model_flops,
        hardware_flops=done.hardware_flops,
        gpus=job.layout.world_size,
        peak_flops=job.cluster.gpu.peak(job.training.precision),
    )
    return costs, work


def holders(placement: Placement) -> list[list[int]]:
    """Ranks that hold each stage."""
    return [np.flatnonzero(column).tolist() for column in placement.holds.T]


def job_of(config: ClusterConfig) -> Job:
    """The model, cluster, layout and training that a config describes."""
    from pipesim.config.model import build_model
    from pipesim.hardware import Layout, build_cluster
    from pipesim.workload.training import Training

    cluster, parallelism, training = config.cluster, config.parallelism, config.training
    return Job(
        model=build_model(config.model, config.directory),
        cluster=build_cluster(
            cluster.gpu,
            gpus_per_node=cluster.gpus_per_node,
            nodes=cluster.nodes,
            intra_node=cluster.intra_node,
            inter_node=cluster.inter_node,
            nics_per_node=cluster.nics_per_node,
        ),
        layout=Layout(
            pipeline=parallelism.pipeline,
            tensor=parallelism.tensor,
            data=parallelism.data,
            context=parallelism.context,
            expert=parallelism.expert,
            gpus_per_node=cluster.gpus_per_node,
            order=parallelism.order,
        ),
        training=Training(
            micro_batch=training.micro_batch,
            global_batch=training.global_batch,
            precision=training.precision,
            recompute=training.recompute,
            zero=training.zero,
            optimizer=training.optimizer,
            sequence_parallel=config.sequence_parallel,
            flash_attention=training.flash_attention,
        ),
    )
