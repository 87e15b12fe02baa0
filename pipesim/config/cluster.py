"""Sections of the form with a real model on a real cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, TypeAdapter, WithJsonSchema

from pipesim.config.section import Bytes, Count, Counts, Ranks, Scales, Section, as_tuple, refuse
from pipesim.config.software import USUAL, Software
from pipesim.errors import nearest
from pipesim.hardware.allowance import Allowance

if TYPE_CHECKING:
    from pipesim.workload.training import Training as BuiltTraining


def _named(value: Any) -> Any:
    if isinstance(value, str | dict):
        return value
    raise refuse("neither a name nor a mapping", "a name, or a mapping of fields")


def _schema(description: str) -> WithJsonSchema:
    return WithJsonSchema({"type": ["string", "object"], "description": description})


Named = str | dict[str, Any]
"""A catalog name or a mapping of fields; what is in it is checked by the package that builds it."""

Model = Annotated[
    Named,
    PlainValidator(_named),
    _schema("a model's name, a path to a Hugging Face config.json, or its fields"),
]
Gpu = Annotated[Named, PlainValidator(_named), _schema("a GPU's name, or {base: name, memory: ..., ...}")]
Link = Annotated[Named, PlainValidator(_named), _schema("a link's name, or {bandwidth, latency, nics_per_node}")]


PARTITIONS = ("even", "ends-short", "balanced")


def _partition(value: Any) -> tuple[int, ...] | str:
    """The layers of each stage as a list, or one of the names of `PARTITIONS`."""
    if isinstance(value, list | tuple):
        return _COUNTS.validate_python(value, strict=True)
    names = ", ".join(PARTITIONS)
    if not isinstance(value, str):
        raise refuse("not a list", f"a list, layers per stage, or {names}")
    if value not in PARTITIONS:
        raise refuse("unknown partition", f"{names}, or a list, layers per stage", nearest(value, PARTITIONS))
    return value


_COUNTS: TypeAdapter[tuple[int, ...]] = TypeAdapter(Counts)
Partition = Annotated[
    tuple[int, ...] | str,
    PlainValidator(_partition),
    WithJsonSchema({
        "description": "layers per stage, or how to choose them",
        "anyOf": [{"type": "array", "items": {"type": "integer", "minimum": 0}}, {"enum": list(PARTITIONS)}],
    }),
]  # fmt: skip
Lengths = Annotated[tuple[Count, ...], BeforeValidator(as_tuple)]


class Cluster(Section):
    """The machine. Links default to those that the GPU usually comes with; ``nics_per_node`` to the fabric's.

    ``gpus_per_switch`` GPUs share a PCIe switch, whose ``host_link`` leads to the node's ``host_memory``; these three
    matter to schedules that offload activations. ``context_memory`` (CUDA), ``nccl_memory`` and ``fragmentation`` (a
    share of all that is held) are memory of a GPU that no tensor can have; see `pipesim.hardware.allowance`.
    """

    gpu: Gpu
    gpus_per_node: Count = 8
    nodes: Count
    intra_node: Link | None = None
    inter_node: Link | None = None
    nics_per_node: Count | None = None
    host_link: Link | None = None
    gpus_per_switch: Count | None = None
    host_memory: Bytes | None = None
    context_memory: Bytes = Allowance.context_bytes
    nccl_memory: Bytes = Allowance.nccl_bytes
    fragmentation: Annotated[float, Field(ge=0, lt=1)] = Allowance.fragmentation

    @property
    def gpus(self) -> int:
        """GPUs in the cluster."""
        return self.nodes * self.gpus_per_node


class Parallelism(Section):
    """How many ways each axis is split.

    ``expert`` takes its ranks out of data x context and adds none. ``order`` says which axis varies fastest over
    neighbouring GPUs, the innermost first; the default is Megatron-LM's.
    """

    pipeline: Ranks
    tensor: Count = 1
    data: Count = 1
    context: Count = 1
    expert: Count = 1
    order: str = "tp-cp-dp-pp"

    @property
    def gpus(self) -> int:
        """GPUs that the job occupies."""
        return self.pipeline * self.tensor * self.data * self.context


class Training(Section):
    """What one step does, as in `pipesim.workload.training.Training`.

    ``software`` names the framework whose settings are the defaults of everything below, and of ``simulation.p2p``;
    without a name it is `pytorch-fsdp` for ``zero: 3`` on one pipeline rank, `megatron-core` otherwise.
    Batches are counted in sequences; ``global_batch`` is over all replicas. ``sequence_parallel`` defaults to
    true when tensor > 1. ``partition`` has the layers of each stage, or says how to choose them: ``even``, the default,
    with the ends short where layers do not divide; ``ends-short``, one layer less on the first and the last stage than
    on all others; ``balanced``, so that the slowest rank is as fast as possible and every rank fits in memory.
    ``sequence_lengths`` has the tokens per sequence of each micro-batch, where these are not all the model's
    ``sequence``; every replica has the same.
    """

    software: Software = USUAL
    micro_batch: Count = 1
    global_batch: Count
    precision: Literal["bf16", "fp16", "fp8", "fp32"] = "bf16"
    recompute: Literal["none", "selective", "pointwise", "per-op", "without-attention", "full-early-stop", "full"] = (
        "none"
    )
    zero: Annotated[int, Field(ge=0, le=3)] = 0
    optimizer: Literal["adam", "adam-remainders", "adam-bf16", "momentum", "sgd"] = "adam"
    sequence_parallel: bool | None = None
    flash_attention: bool = True
    gradients: Literal["fp32", "half"] = "fp32"
    scatter_gather: bool = True
    launch_floor: bool = True
    fused_gradients: bool = True
    fused_loss: bool = True
    tensor_overlap: Literal["none", "gradients", "full"] = "gradients"
    gathered_inputs: Literal["again", "kept"] = "again"
    attention_version: Annotated[int, Field(ge=1, le=3)] = 3
    fused_kernels: bool = True
    fused_norms: bool = True
    context_method: Literal["ring", "all-to-all", "torch-ring"] = "ring"
    dispatch: Literal["all-to-all", "deduplicated"] = "all-to-all"
    expert_overlap: bool = False
    data_overlap: Literal["none", "gradients", "full"] = "gradients"
    fsdp: Annotated[int, Field(ge=0, le=2)] = 0
    fused_optimizer: bool = True
    old_nccl: bool = False
    partition: Partition | None = None
    sequence_lengths: Lengths | None = None

    def build(self, sequence_parallel: bool) -> BuiltTraining:
        """How the model is trained, with ``sequence_parallel`` decided; software, partition and lengths are apart.

        Raises ConfigError for settings that are right one by one and wrong together.
        """
        from pipesim.workload.training import Training as BuiltTraining

        given = dict(self) | {"sequence_parallel": sequence_parallel}
        apart = ("software", "partition", "sequence_lengths")
        return BuiltTraining(**{key: value for key, value in given.items() if key not in apart})


class Profile(Section):
    """Measured costs and sizes per stage or per layer, in a CSV file next to the config.

    ``microbatch_scale``: by how much each micro-batch's work, activations and messages are larger than measured, one
    number per micro-batch; 1 when left out.
    """

    profile: Annotated[str, Field(description="a CSV file, relative to the config")]
    microbatch_scale: Scales | None = None


class Simulation(Section):
    """How the step is replayed.

    ``network``: transfers that meet do not disturb each other, take turns, or share links fairly.
    ``pair_factor``: an overlapped forward and backward (DualPipe) take this times the sum of their durations.
    ``extrapolate``: simulate fewer micro-batches where the step then provably repeats itself; the result is the same.
    """

    engine: Literal["event", "compiled"] = "event"
    network: Literal["ideal", "fifo", "fair"] = "ideal"
    p2p: Literal["overlapped", "blocking"] = "overlapped"
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    pair_factor: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    extrapolate: bool = False
