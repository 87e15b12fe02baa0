"""The two kinds of config, whole: abstract (schedules alone) and cluster (a model on machines)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import PrivateAttr

from pipesim.config.abstract import Pipeline, UnitCosts, UnitMemory
from pipesim.config.cluster import Cluster, Model, Named, Parallelism, Profile, Simulation, Training
from pipesim.config.model import build_model
from pipesim.config.schedule import Schedule
from pipesim.config.section import Section

if TYPE_CHECKING:
    from pipesim.hardware.cluster import Cluster as BuiltCluster
    from pipesim.hardware.layout import Layout
    from pipesim.schedules import Schedule as BuiltSchedule
    from pipesim.workload.model import Model as BuiltModel
    from pipesim.workload.training import Training as BuiltTraining

Form = Literal["abstract", "cluster"]


class BaseConfig(Section):
    """What both forms have: a schedule, and how to simulate."""

    form: ClassVar[Form]

    schedule: Schedule
    simulation: Simulation = Simulation()

    _source: str | None = PrivateAttr(default=None)
    _directory: Path = PrivateAttr(default_factory=Path)
    _software_implied: bool = PrivateAttr(default=False)

    @property
    def source(self) -> str | None:
        """The file that the config was read from, as it was given."""
        return self._source

    @property
    def directory(self) -> Path:
        """Where relative paths in the config start: the directory of its file."""
        return self._directory

    @property
    def ranks(self) -> int:
        """Pipeline ranks P."""
        raise NotImplementedError

    @property
    def microbatches(self) -> int:
        """Micro-batches M that one pipeline runs per step."""
        raise NotImplementedError

    def resolved(self) -> dict[str, Any]:
        """The config with every default spelled out, as plain data that `load_config` reads back.

        Keys are in a fixed order; quantities are SI numbers; catalog names stay names.
        """
        raise NotImplementedError

    def build_schedule(self) -> BuiltSchedule:
        """The schedule with its options."""
        return self.schedule.build()

    def notes(self) -> list[str]:
        """What is allowed but may not be meant."""
        return []


class AbstractConfig(BaseConfig):
    """A schedule, its size, and costs in the abstract."""

    form: ClassVar[Form] = "abstract"

    pipeline: Pipeline
    costs: UnitCosts = UnitCosts()
    memory: UnitMemory = UnitMemory()

    @property
    def ranks(self) -> int:
        """Pipeline ranks P."""
        return self.pipeline.ranks

    @property
    def microbatches(self) -> int:
        """Micro-batches M per step."""
        return self.pipeline.microbatches

    def resolved(self) -> dict[str, Any]:
        """Every default spelled out, as plain data."""
        return {
            "pipeline": self.pipeline.plain(),
            "costs": self.costs.plain(),
            "memory": self.memory.plain(),
            "schedule": self.schedule.resolved(),
            "simulation": self.simulation.plain(),
        }


class ClusterConfig(BaseConfig):
    """A model, trained on a cluster; ``costs`` may replace the analytic model with measurements."""

    form: ClassVar[Form] = "cluster"

    model: Model
    cluster: Cluster
    parallelism: Parallelism
    training: Training
    costs: Profile | None = None

    @property
    def ranks(self) -> int:
        """Pipeline ranks P."""
        return self.parallelism.pipeline

    @property
    def microbatches(self) -> int:
        """Micro-batches M per step of one data-parallel replica."""
        return self.training.global_batch // (self.training.micro_batch * self.parallelism.data)

    @property
    def sequence_parallel(self) -> bool:
        """Whether activations are split along the sequence outside attention and MLP (default: with tensor > 1)."""
        given = self.training.sequence_parallel
        return self.parallelism.tensor > 1 if given is None else given

    @property
    def intra_node(self) -> Named:
        """The link inside a node: as given, or the one the GPU comes with."""
        return self.cluster.intra_node or _gpu_field(self.cluster.gpu, "intra_node")

    @property
    def inter_node(self) -> Named:
        """The fabric between nodes: as given, or the one the GPU usually comes with."""
        return self.cluster.inter_node or _gpu_field(self.cluster.gpu, "inter_node")

    def build_model(self) -> BuiltModel:
        """The model's shape; reads the config.json when there is one."""
        return build_model(self.model, self.directory)

    def build_cluster(self) -> BuiltCluster:
        """The cluster with its GPU and links."""
        from pipesim.hardware.cluster import build_cluster

        return build_cluster(**dict(self.cluster))

    def build_layout(self) -> Layout:
        """Which GPU does what."""
        from pipesim.hardware.layout import Layout

        return Layout(**dict(self.parallelism), gpus_per_node=self.cluster.gpus_per_node)

    def build_training(self) -> BuiltTraining:
        """How the model is trained, with ``sequence_parallel`` decided; software, partition and lengths are apart."""
        return self.training.build(self.sequence_parallel)

    def resolved(self) -> dict[str, Any]:
        """Every default spelled out, as plain data; what was not given and has no default is left out."""
        links = {"intra_node": self.intra_node, "inter_node": self.inter_node}
        sections = {
            "model": self.model,
            "cluster": self.cluster.model_copy(update=links).plain(),
            "parallelism": self.parallelism.plain(),
            "schedule": self.schedule.resolved(),
            "training": self.training.model_copy(update={"sequence_parallel": self.sequence_parallel}).plain(),
            "simulation": self.simulation.plain(),
        }
        return sections | ({"costs": self.costs.plain()} if self.costs else {})

    def notes(self) -> list[str]:
        """Says when part of the cluster stays idle, or its tensor cores, and which software was taken to be meant."""
        used, there = self.parallelism.gpus, self.cluster.gpus
        notes = [f"the job uses {used} of the cluster's {there} GPUs"] if used < there else []
        if self._software_implied and self.costs is None:
            notes.append(
                "zero: 3 without a pipeline is taken to be PyTorch's FSDP "
                f"(software: {self.training.software}); training.software names others"
            )
        scores_kept = not self.training.flash_attention and self.training.precision != "fp32"
        if scores_kept and self.costs is None and not self.build_model().aligned_heads:
            notes.append(
                "attention without FlashAttention on heads whose width is not a multiple of 8 does without tensor cores"
            )
        return notes


Config = AbstractConfig | ClusterConfig


def _gpu_field(gpu: Named, key: str) -> Any:
    """A field of a GPU: its own, or the one of the catalog entry it names or starts from."""
    from pipesim import catalog

    if isinstance(gpu, dict):
        return gpu[key] if key in gpu else _gpu_field(gpu["base"], key)
    return catalog.load("gpus")[gpu].get(key)
