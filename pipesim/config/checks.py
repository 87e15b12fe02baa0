"""Checks across sections. Each looks only at sections that are right by themselves, so all can run at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipesim.config.abstract import Pipeline, UnitCosts
from pipesim.config.cluster import Cluster, Parallelism, Profile, Simulation, Training
from pipesim.config.microbatches import length_problems, one_each
from pipesim.config.model import build_model
from pipesim.config.schedule import ScheduleChoice
from pipesim.config.splits import split_problems
from pipesim.errors import ConfigError, Problem, ProgramError, ScheduleError

if TYPE_CHECKING:
    from pipesim.hardware.cluster import Cluster as BuiltCluster
    from pipesim.schedules import Schedule as BuiltSchedule
    from pipesim.schedules.base import Size
    from pipesim.workload.model import Model

MAX_OPS = 2 * 10**8
"""Largest number of F, I and W ops (3 x ranks x micro-batches x chunks) that a config may ask for: ten
thousand GPUs with thousands of micro-batches stay below; beyond, memory runs out before anything is learnt."""

MAX_STAGES = 10**5
"""Most stages: as many as the layers of the deepest model that is accepted, a thousand times those that exist."""

MAX_BALANCED = 500
"""Most layers of a balanced partition: time and memory of its search grow faster than their number."""

MAX_HOLDINGS = 10**8
"""Largest table of which rank holds which stage: a gigabyte where it is counted with."""

SHORTEST_S = 1e-9
"""The longest op takes at least this, so that rounding to picoseconds stays below a thousandth of it."""

Sections = Mapping[str, Any]
"""The sections that are valid by themselves, by name."""


def abstract_problems(sections: Sections, _raw: Mapping[str, Any], _directory: Path) -> Iterator[Problem]:
    """What sections of the abstract form say against each other."""
    pipeline, costs, schedule = (sections.get(key) for key in ("pipeline", "costs", "schedule"))
    if costs is not None:
        yield from _all_zero(costs)
    if schedule is not None and "simulation" in sections:
        yield from _engines_and_transfers(schedule, sections["simulation"])
    if pipeline is not None and schedule is not None:
        problems = list(_schedulable(schedule, pipeline.ranks, pipeline.microbatches, "pipeline"))
        yield from problems
        if costs is not None and not problems:
            yield from _list_lengths(costs, pipeline, schedule)
    if pipeline is not None and costs is not None:
        yield from one_each("costs.microbatch_scale", costs.microbatch_scale, pipeline.microbatches)


def cluster_problems(sections: Sections, raw: Mapping[str, Any], directory: Path) -> Iterator[Problem]:
    """What sections of the cluster form say against each other.

    The model and the cluster's parts are built once, from what was given: the packages that build them say what
    is wrong with them, even where another key of the section is wrong too.
    """
    parallelism, training, schedule = (sections.get(key) for key in ("parallelism", "training", "schedule"))
    hardware, problems = _hardware(raw.get("cluster"))
    yield from problems
    model, problems = _model(sections.get("model"), directory)
    yield from problems
    if sections.get("costs") is not None:
        yield from _profile_file(sections["costs"], directory)
    if parallelism is not None:
        yield from _layout(parallelism)
    if "cluster" in sections and parallelism is not None:
        yield from _enough_gpus(sections["cluster"], parallelism)
    if hardware is not None and training is not None:
        yield from _precision(hardware, training)
    if training is not None:
        yield from _training(training)
    if model is not None and parallelism is not None:
        yield from split_problems(model, parallelism, training)
    if model is not None and parallelism is not None and training is not None and schedule is not None:
        yield from _partition(model, parallelism, schedule, training)
    if parallelism is not None and training is not None:
        yield from _batches(schedule, parallelism, training, model)
        yield from length_problems(parallelism, training, model, sections.get("costs"))
        if schedule is not None:
            yield from _sharded_without_flush(schedule, parallelism, training)
    if schedule is not None and "simulation" in sections:
        yield from _engines_and_transfers(schedule, sections["simulation"])


def _hardware(raw: Any) -> tuple[BuiltCluster | None, Sequence[Problem]]:
    from pipesim.hardware.cluster import build_cluster

    if not isinstance(raw, Mapping) or not isinstance(raw.get("gpu"), str | Mapping):
        return None, ()
    links = {
        key: raw[key] for key in ("intra_node", "inter_node", "host_link") if isinstance(raw.get(key), str | Mapping)
    }
    counts = {
        key: raw[key]
        for key in ("gpus_per_node", "nodes", "nics_per_node", "gpus_per_switch")
        if _is_count(raw.get(key))
    }
    try:
        return build_cluster(raw["gpu"], **counts, **links), ()
    except ConfigError as error:
        return None, error.problems


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _model(spec: Any, directory: Path) -> tuple[Model | None, Sequence[Problem]]:
    if spec is None:
        return None, ()
    try:
        return build_model(spec, directory), ()
    except ConfigError as error:
        return None, error.problems


def _all_zero(costs: UnitCosts) -> Iterator[Problem]:
    times = (costs.forward, costs.input_grad, costs.weight_grad)
    longest = max(max(time) if isinstance(time, tuple) else time for time in times)
    if longest < SHORTEST_S:
        message = "all ops take no time" if longest == 0 else "all ops are too short for a clock of picoseconds"
        allowed = f"a forward, input_grad or weight_grad of at least {SHORTEST_S:g} (seconds)"
        yield Problem("costs", message, f"at most {longest:g}", allowed)


def _exceeded(size: Size) -> str | None:
    """What a program would have to stay below, and how; None for one that does."""
    if size.stages > MAX_STAGES:
        return f"at most {MAX_STAGES} stages: fewer ranks, or fewer chunks or waves per rank"
    if size.stages * size.ranks > MAX_HOLDINGS:
        return f"at most {MAX_HOLDINGS:.0e} for stages x ranks: fewer ranks, or fewer chunks or waves per rank"
    if size.ops > MAX_OPS:
        return f"at most {MAX_OPS:.0e} ops: fewer micro-batches, ranks, or chunks or waves per rank"
    return None


def _schedulable(
    schedule: ScheduleChoice, ranks: int, microbatches: int, path: str, model: Model | None = None
) -> Iterator[Problem]:
    """Size first: asking an absurd size of the schedule may take forever."""
    try:
        built = _fitted(schedule, model)
        size = built.size(ranks, microbatches)
        if allowed := _exceeded(size):
            yield Problem(path, "too large to simulate", str(size), allowed)
        else:
            built.check(ranks, microbatches)
    except (ScheduleError, ProgramError) as error:
        yield Problem("schedule", str(error))


def _sharded_without_flush(schedule: ScheduleChoice, parallelism: Parallelism, training: Training) -> Iterator[Problem]:
    """Sharded state would have to be gathered after every micro-batch's update."""
    replicas = parallelism.data * parallelism.context
    if training.zero and replicas > 1 and not schedule.build().flush:
        message = f"schedule {schedule.name} steps the optimizer between micro-batches, on whole weights"
        yield Problem("training.zero", message, f"{training.zero} over {replicas} replicas", "0")


def _engines_and_transfers(schedule: ScheduleChoice, simulation: Simulation) -> Iterator[Problem]:
    if simulation.p2p == "blocking" and schedule.build().second_engine:
        message = "blocking transfers would hold one of a rank's two engines"
        yield Problem("simulation.p2p", message, "'blocking'", "overlapped", "schedule.engines: 1")


def _fitted(schedule: ScheduleChoice, model: Model | None) -> BuiltSchedule:
    """The schedule, set up for the model where there is one."""
    built = schedule.build()
    return built.fit(model.layers) if model is not None else built


def _stages(schedule: BuiltSchedule, ranks: int) -> int:
    """Number of stages S; an estimate beyond what a placement should be built for just to count them."""
    estimate = schedule.stages(ranks)
    return schedule.placement(ranks).stages if estimate <= 10**6 else estimate


def _list_lengths(costs: UnitCosts, pipeline: Pipeline, schedule: ScheduleChoice) -> Iterator[Problem]:
    stages = _stages(schedule.build(), pipeline.ranks)
    for name in ("forward", "input_grad", "weight_grad", "optimizer", "reconstruct", "offload"):
        times = getattr(costs, name)
        if isinstance(times, tuple) and len(times) != stages:
            allowed = f"{stages} entries, one per stage, or a single number"
            yield Problem(f"costs.{name}", "wrong number of entries", str(len(times)), allowed)


def _profile_file(profile: Profile, directory: Path) -> Iterator[Problem]:
    try:
        (directory / profile.profile).open("rb").close()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        allowed = "a CSV file, relative to the config"
        yield Problem("costs.profile", f"cannot be read: {reason}", repr(profile.profile), allowed)


def _enough_gpus(cluster: Cluster, parallelism: Parallelism) -> Iterator[Problem]:
    if parallelism.gpus > cluster.gpus:
        p = parallelism
        found = (
            f"pipeline {p.pipeline} x tensor {p.tensor} x data {p.data} x context {p.context} = {p.gpus} GPUs"
            f" on {cluster.nodes} nodes of {cluster.gpus_per_node}"
        )
        nodes = -(-p.gpus // cluster.gpus_per_node)
        yield Problem(
            "parallelism", "needs more GPUs than the cluster has", found, f"at most {cluster.gpus} GPUs",
            f"cluster.nodes: {nodes}",
        )  # fmt: skip


def _precision(hardware: BuiltCluster, training: Training) -> Iterator[Problem]:
    known = hardware.gpu.peak_flops
    if training.precision not in known:
        message = f"{hardware.gpu.name} does not compute in this precision"
        yield Problem("training.precision", message, repr(training.precision), ", ".join(known))


def _training(training: Training) -> Sequence[Problem]:
    """What the package that builds it says about settings that are right one by one."""
    try:
        training.build(training.sequence_parallel is not False)
    except ConfigError as error:
        return error.problems
    return ()


def _layout(parallelism: Parallelism) -> Sequence[Problem]:
    from pipesim.hardware.layout import Layout

    try:
        Layout(**dict(parallelism))
    except ConfigError as error:
        return error.problems
    return ()


def _partition(
    model: Model, parallelism: Parallelism, schedule: ScheduleChoice, training: Training
) -> Sequence[Problem]:
    from pipesim.workload.partition import partition

    ranks = parallelism.pipeline
    try:
        fitted = _fitted(schedule, model)
        stages = _stages(fitted, ranks)
        if stages <= 10**6 and fitted.placement(ranks).cut is not None:
            return _whole_layers_only(schedule, training)
        if training.partition == "balanced":
            return _enough_pieces(model.layers, stages)
        partition(model.layers, stages, training.partition)
    except ConfigError as error:
        return error.problems
    except (ScheduleError, ProgramError):  # reported when the schedule itself is checked
        return ()
    return ()


def _enough_pieces(layers: int, stages: int) -> Sequence[Problem]:
    """The embedding and the head may have a stage to themselves; every other stage needs a layer."""
    if layers > MAX_BALANCED:
        found, allowed = f"{layers} layers", f"at most {MAX_BALANCED} layers, or even, ends-short or a list"
        return [Problem("training.partition", "too many layers to balance", found, allowed)]
    if stages <= layers + 2:
        return ()
    found, allowed = f"{stages} stages for {layers} layers", f"at most {layers + 2} stages"
    return [Problem("schedule", "more stages than layers, embedding and head", found, allowed)]


def _whole_layers_only(schedule: ScheduleChoice, training: Training) -> Sequence[Problem]:
    if training.partition is None:
        return ()
    message = f"{schedule.name} cuts inside layers and decides itself which rank has what"
    given = training.partition if isinstance(training.partition, str) else list(training.partition)
    return [Problem("training.partition", message, repr(given), "nothing")]


def _batches(
    schedule: ScheduleChoice | None, parallelism: Parallelism, training: Training, model: Model | None
) -> Iterator[Problem]:
    size, total = training.micro_batch * parallelism.data, training.global_batch
    if total % size:
        lower, upper = total // size * size, -(-total // size) * size
        near = " or ".join(str(n) for n in (lower, upper) if n)
        found = f"{total} for micro_batch {training.micro_batch} x data {parallelism.data}"
        message = "does not divide into micro-batches"
        yield Problem("training.global_batch", message, found, f"a multiple of {size}", near)
    elif schedule is not None:
        yield from _schedulable(schedule, parallelism.pipeline, total // size, "training.global_batch", model)
