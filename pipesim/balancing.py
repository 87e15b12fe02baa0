"""From a config that leaves the partition open to one that has the layers of each stage.

What a balanced partition weighs: of every layer, the embedding and the head the forward, backward and recomputation
that one micro-batch takes on the cost model or measured per layer, and their bytes; of every rank the micro-batches
that the schedule keeps in flight there. Where micro-batches are not all alike, times are those of the mean one and
activations those of the largest. Schedules that go by costs are asked for their order with an even partition.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import SLOTS, Costs
from pipesim.errors import ConfigError, Problem
from pipesim.ir.holding import fullest
from pipesim.ir.op import Kind
from pipesim.ir.placement import Placement
from pipesim.ir.program import Program
from pipesim.ir.timeline import to_picoseconds
from pipesim.pricing import Priced, cluster_costs, holders, step_costs
from pipesim.schedules.base import Schedule, Setting
from pipesim.units import format_bytes
from pipesim.workload.balance import Pieces, Pipeline, balance
from pipesim.workload.partition import partition

if TYPE_CHECKING:
    from pipesim.config.document import ClusterConfig


def decided(config: ClusterConfig, schedule: Schedule) -> tuple[ClusterConfig, list[str]]:
    """The config with the layers of each stage in place of a name, and what the user should know about them.

    Raises:
        ConfigError: the model cannot be cut so, or a profile has no costs of single layers.
        ScheduleError: the schedule finds no order.
    """
    choice = config.training.partition
    if not isinstance(choice, str):
        return config, []
    placement, layers = schedule.placement(config.ranks), config.build_model().layers
    if choice != "balanced":
        return _with_layers(config, partition(layers, placement.stages, choice)), []
    rough = _with_layers(config, roughly_even(layers, placement.stages))
    costs, _ = cluster_costs(rough, placement)
    program = schedule.program(Setting(config.ranks, config.microbatches, step_costs(costs)))
    found = balance(*_problem(config, program))
    notes = []
    if found.missing > 0:
        notes.append(
            f"no partition of the layers was found to fit in memory; the one taken lacks least, about "
            f"{format_bytes(found.missing * (1 + costs.fragmentation))} on the fullest rank"
        )
    pieces = np.diff(found.cuts)
    pieces[[0, -1]] -= 1 if len(pieces) > 1 else 2
    return _with_layers(config, pieces.tolist()), notes


def roughly_even(layers: int, stages: int) -> tuple[int, ...]:
    """As `partition`, but with none on the first or last stage where layers do not go round."""
    if stages <= layers:
        return partition(layers, stages)
    return (0, *(1,) * layers, *(0,) * (stages - layers - 1))


def _with_layers(config: ClusterConfig, layers: tuple[int, ...] | list[int]) -> ClusterConfig:
    training = config.training.model_copy(update={"partition": tuple(layers)})
    return config.model_copy(update={"training": training})


def _problem(config: ClusterConfig, program: Program) -> tuple[Pieces, Pipeline]:
    placement = program.placement
    costs = _piece_costs(config, placement)
    sizes = costs.sizes
    again = float(sizes.recomputed.max())
    pieces = Pieces(
        time=_piece_times(costs, bool((program.kind == Kind.B).any())),
        state=sizes.weights + sizes.gradients + sizes.optimizer,
        kept=sizes.activations,
        late=sizes.weight_grad_activations,
        gathered=sizes.unsharded,
    )
    capacity = np.inf if costs.capacity_bytes is None else costs.capacity_bytes
    room = capacity / (1 + costs.fragmentation) - costs.buffers_bytes - again
    return pieces, Pipeline(_share(program), fullest(program), room, SLOTS)


def _piece_costs(config: ClusterConfig, placement: Placement) -> Costs:
    """Costs of a model whose stages are the embedding, every single layer and the head, each about where it will be."""
    if config.costs is not None:
        _refuse_stages(config)
    model, held = config.build_model(), holders(placement)
    ranks = [held[0], *(held[layer * len(held) // model.layers] for layer in range(model.layers)), held[-1]]
    priced = Priced.of(config, (0, *(1,) * model.layers, 0), ranks, None)
    lengths = config.training.sequence_lengths or (model.sequence,)
    costs = priced.mixed(model, lengths)
    if costs.variants is None:
        return costs
    largest = {
        name: np.max([getattr(each.sizes, name) for each in costs.variants.costs], axis=0)
        for name in ("activations", "weight_grad_activations", "recomputed")
    }
    return replace(costs, sizes=replace(costs.sizes, **largest))


def _refuse_stages(config: ClusterConfig) -> None:
    from pipesim.costs.profile import read_profile

    assert config.costs is not None
    if not read_profile(config.directory / config.costs.profile).by_layer:
        message = "layers cannot be moved between stages that were measured as a whole"
        allowed = "a list, even or ends-short, or a profile with a column layer"
        raise ConfigError([Problem("training.partition", message, "'balanced'", allowed)], config.source)


def _piece_times(costs: Costs, whole_backwards: bool) -> NDArray[np.int64]:
    """Forward, recomputation and backward of every piece, in picoseconds."""
    times = costs.times
    seconds = times.forward + times.recompute + times.input_grad + times.weight_grad
    return to_picoseconds(seconds - times.overlap if whole_backwards else seconds)


def _share(program: Program) -> NDArray[np.int64]:
    """How many micro-batches each rank runs each stage for, shape (P, S), in the smallest whole numbers."""
    placement = program.placement
    counts = np.bincount(program.route_of, minlength=placement.routes)
    counts //= np.gcd.reduce(counts)
    share = np.zeros((placement.ranks, placement.stages), np.int64)
    for route, rank_of in enumerate(placement.rank_of):
        share[rank_of, np.arange(placement.stages)] += counts[route]
    return share
