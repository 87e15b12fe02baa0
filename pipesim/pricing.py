"""From a config to what its ops cost: part of the api layer, where config types stop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import Costs
from pipesim.costs.unit import Given, unit_costs
from pipesim.costs.variants import mixed, scaled
from pipesim.ir.cut import Cut
from pipesim.ir.placement import Placement
from pipesim.ir.timeline import to_picoseconds
from pipesim.metrics.collect import Work
from pipesim.schedules.base import Schedule, StepCosts

if TYPE_CHECKING:
    from pipesim.config.document import AbstractConfig, ClusterConfig
    from pipesim.hardware import Cluster, Layout
    from pipesim.workload.model import Model
    from pipesim.workload.training import Training


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
    how = training.scatter_gather, training.sequence_parallel, training.old_nccl
    return links_used(config.build_cluster(), config.build_layout(), *how)


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
    each = unit_costs(
        placement.stages,
        ranks,
        chunks=placement.chunks,
        p2p=costs.p2p,
        weight_grad_share=memory.weight_grad_share,
        **given,
    )
    return each if costs.microbatch_scale is None else mixed(costs.microbatch_scale, partial(scaled, each))


def _divided(value: Given, shares: NDArray[np.float64]) -> Given:
    """A number divided among stages; a list already is."""
    return value if isinstance(value, Sequence) else [float(value * share) for share in shares]


def cluster_costs(config: ClusterConfig, placement: Placement) -> tuple[Costs, Work]:
    """Costs of a model on a cluster, and what a step gets done."""
    from pipesim.workload.partition import partition

    model, cut, lengths = config.build_model(), placement.cut, config.training.sequence_lengths
    layers = partition(model.layers, placement.stages, config.training.partition) if cut is None else None
    ranks = holders(placement) if cut is None else runners(placement)
    priced = Priced.of(config, layers, ranks, cut)
    if lengths is None:
        return priced.costs(model), priced.work(model, config.microbatches)
    return priced.mixed(model, lengths), priced.whole_work(model, lengths)


@dataclass(frozen=True)
class Priced:
    """Stages of a model on a cluster, to be priced for one sequence length or another."""

    cluster: Cluster
    layout: Layout
    training: Training
    layers: Sequence[int] | None
    ranks: Sequence[Sequence[int]]
    cut: Cut | None
    profile: Path | None
    scales: Sequence[float] | None

    @classmethod
    def of(
        cls, config: ClusterConfig, layers: Sequence[int] | None, ranks: Sequence[Sequence[int]], cut: Cut | None
    ) -> Priced:
        """As a config says; ``ranks`` hold, or with a ``cut`` run, each stage."""
        measured = config.costs
        profile = config.directory / measured.profile if measured is not None else None
        scales = measured.microbatch_scale if measured is not None else None
        hardware = config.build_cluster(), config.build_layout(), config.build_training()
        return cls(*hardware, layers, ranks, cut, profile, scales)

    def costs(self, model: Model) -> Costs:
        """Costs of every stage for sequences of the model's length, or as measured."""
        from pipesim.costs.analytic import analytic_costs

        count = len(self.ranks)
        costs = analytic_costs(
            model, self.cluster, self.layout, self.training, count, self.layers, self.ranks, self.cut
        )
        if self.layers is not None:
            costs = replace(costs, gradient_buckets=np.maximum(1, np.array(self.layers, np.int64)))
        if self.profile is not None:
            from pipesim.costs.profile import profile_costs

            costs = profile_costs(self.profile, costs, self.layers)
        if self.scales is None:
            return self._with_copies(costs)
        return mixed(self.scales, lambda scale: self._with_copies(scaled(costs, scale)))

    def mixed(self, model: Model, lengths: Sequence[int]) -> Costs:
        """Costs of micro-batches with sequences of these lengths."""
        return mixed(lengths, lambda length: self.costs(replace(model, sequence=length)))

    def _with_copies(self, costs: Costs) -> Costs:
        from pipesim.costs.host import host_copies

        return replace(costs, host=host_copies(self.cluster, self.layout, costs.sizes.activations))

    def work(self, model: Model, microbatches: int) -> Work:
        """What so many micro-batches with sequences of the model's length get done, in all replicas."""
        from pipesim.costs.analytic import step_work

        samples = microbatches * self.training.micro_batch * self.layout.data
        done = step_work(model, replace(self.training, global_batch=samples), self.cut)
        return Work(
            samples=done.samples,
            tokens=done.tokens,
            model_flops=done.model_flops,
            hardware_flops=done.hardware_flops,
            gpus=self.layout.world_size,
            peak_flops=self.cluster.gpu.peak(self.training.precision),
        )

    def whole_work(self, model: Model, lengths: Sequence[int]) -> Work:
        """The work of micro-batches of these lengths together."""
        counts = Counter(lengths).items()
        each = [self.work(replace(model, sequence=length), count) for length, count in counts]
        summed = ("samples", "tokens", "model_flops", "hardware_flops")
        return replace(each[0], **{name: sum(getattr(one, name) for one in each) for name in summed})


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


def step_costs(costs: Costs) -> StepCosts:
    """What a cost-driven schedule may look at, of the mean micro-batch; a hop is the slowest between neighbours."""
    times, sizes, hops = costs.times, costs.sizes, costs.hops
    here = np.arange(hops.latency_s.shape[0] - 1)
    largest = float(sizes.message.max(initial=0.0))
    hop_s = hops.latency_s[here, here + 1] + largest * hops.seconds_per_byte[here, here + 1]
    return StepCosts(
        forward=to_picoseconds(times.forward),
        input_grad=to_picoseconds(times.input_grad + times.recompute),
        weight_grad=to_picoseconds(times.weight_grad),
        hop=int(to_picoseconds(hop_s.max(initial=0.0))),
        activations=sizes.activations,
        weight_grad_activations=sizes.weight_grad_activations,
    )
