"""How a model is trained: batch, precision, recomputation, sharding of state."""

from __future__ import annotations

from dataclasses import dataclass

from pipesim.errors import ConfigError, Problem, nearest

PRECISIONS = ("bf16", "fp16", "fp8", "fp32")
RECOMPUTES = ("none", "selective", "pointwise", "per-op", "without-attention", "full-early-stop", "full")
WHOLE_LAYER = ("full", "full-early-stop")
"""Ways of recomputation that keep nothing but a layer's input."""
DISPATCHES = ("all-to-all", "deduplicated")
CONTEXT_METHODS = ("ring", "all-to-all", "torch-ring")
GATHERED_INPUTS = ("again", "kept")
TENSOR_OVERLAPS = DATA_OVERLAPS = ("none", "gradients", "full")
ATTENTION_VERSIONS = (1, 2, 3)
FSDP_GENERATIONS = (0, 1, 2)
OPTIMIZERS = ("adam", "adam-remainders", "adam-bf16", "momentum", "sgd")


@dataclass(frozen=True)
class Training:
    """One training step: batch, precision, what is kept and sharded, and what the software does beside what.

    Raises ConfigError for a value that is not one of those allowed, or a batch that is not positive.
    """

    micro_batch: int = 1
    """Sequences per micro-batch."""
    global_batch: int = 1
    """Sequences per step, over all replicas."""
    precision: str = "bf16"
    """Of the matrix products; with ``fp8`` those outside of the layers, and everything that is stored or sent but to
    feed products, stay bf16.
    """
    recompute: str = "none"
    """What the backward repeats of the forward. ``selective``: the core of attention (scores, softmax, dropout,
    context); ``full``: the whole layer (Korthikanti et al. 2022, arXiv 2205.05198, section 5); ``pointwise``:
    norms, activation functions and dropout, which take little time (PipeOffload, arXiv 2503.01328, section 5.4);
    ``without-attention``: everything but that core, whose cost grows with the square of the sequence (HelixPipe,
    arXiv 2507.00394); ``per-op``: all but attention and every second matrix product (torchtitan's "selective";
    `pipesim.workload.recompute`); ``full-early-stop``: the layer up to the last tensor that its backward reads,
    without the last product and what adds it up (PyTorch's checkpoints that are not reentrant).
    """
    zero: int = 0
    """What is sharded over data-parallel ranks: 1 optimizer state, 2 and gradients, 3 and weights."""
    optimizer: str = "adam"
    """``adam-remainders`` keeps of the fp32 copy only the 16 bits that bf16 weights lack (store_param_remainders of
    NVIDIA/apex's distributed_fused_adam, which NeMo sets in bf16), ``adam-bf16`` has moments of half the size.
    """
    sequence_parallel: bool = False
    """Whether activations are cut along the sequence over the tensor-parallel group where they are not otherwise."""
    flash_attention: bool = True
    """False: separate kernels with the scores in memory, as in Megatron-LM before 2023."""
    gradients: str = "fp32"
    """``fp32`` accumulates and reduces them in fp32, ``half`` in the precision of the weights."""
    scatter_gather: bool = True
    """Whether a message between stages is cut over the tensor-parallel group (Narayanan et al. 2021, arXiv 2104.04473,
    section 4.1).
    """
    launch_floor: bool = True
    """No layer runs faster than an eager host launches its kernels, by the GPU's catalog entry; False with CUDA
    graphs.
    """
    fused_gradients: bool = True
    """Whether weight-gradient products add to the accumulated gradient themselves (Megatron-LM since 2022); otherwise
    a kernel of its own adds each micro-batch's gradient.
    """
    fused_loss: bool = True
    """False: cross-entropy op by op on an fp32 copy of the logits, as PyTorch's own; otherwise in place."""
    tensor_overlap: str = "gradients"
    """Which communication of tensor parallelism runs beside matrix products: ``gradients``, that of the input gradient
    beside the weight gradient's products (Megatron-LM since 2022, in backwards that are not split); ``full``, also
    gathers and scatters of sequence parallelism beside the product they feed or follow (Transformer Engine's
    userbuffers, NeMo); ``none`` before 2022.
    """
    gathered_inputs: str = "again"
    """What sequence parallelism gathers for a product is gathered ``again`` for its weight gradient (Megatron-LM), or
    ``kept`` (PyTorch; `pipesim.costs.tensor`).
    """
    attention_version: int = 3
    """FlashAttention 3 (or cuDNN's equal) where the GPU has it, 2 (PyTorch's own until 2025), or 1 (in Triton, before
    July 2023).
    """
    fused_kernels: bool = True
    """False: norms, rotations and activation functions run op by op (PyTorch without `torch.compile`;
    `pipesim.costs.eager_kernels`), and keep what is between (`pipesim.workload.eager`).
    """
    fused_norms: bool = True
    """Whether norms are one kernel even where other kernels are not fused."""
    context_method: str = "ring"
    """How context parallelism exchanges keys and values (`pipesim.costs.context`)."""
    dispatch: str = "all-to-all"
    """How tokens get to their experts: by an all-to-all of every copy, or one copy per node and GPU (DeepEP)."""
    expert_overlap: bool = False
    """Whether that runs beside another micro-batch's products (Megatron-LM's overlap-moe-expert-parallel-comm)."""
    data_overlap: str = "gradients"
    """Which communication of data parallelism runs beside computation: ``gradients``, each layer's reduction from the
    end of its last backward on (Megatron-LM's overlap-grad-reduce); ``full``, also the gathering of the weights
    that ZeRO 1 and 2 updated, before the next step's forwards that need them (overlap-param-gather); ``none`` waits
    for each.
    """
    fsdp: int = 0
    """The generation of PyTorch's fully sharded data parallelism that ``zero`` is done with, or 0 for none of them
    (`pipesim.costs.fsdp`); with ``zero`` 1 it keeps weights and gradients whole between micro-batches, with 2 weights.
    """
    fused_optimizer: bool = True
    """False: an update is a list of kernels, not one (`pipesim.costs.optimizer`)."""
    old_nccl: bool = False
    """NCCL up to 2.11 (2021): messages between nodes go through one channel (`pipesim.costs.links`), and an all-reduce
    of a large buffer over two nodes takes the ring instead of swapping the buffer once (`pipesim.costs.collectives`).
    """

    def __post_init__(self) -> None:
        problems = [
            *_choice("precision", self.precision, PRECISIONS),
            *_choice("recompute", self.recompute, RECOMPUTES),
            *_choice("optimizer", self.optimizer, OPTIMIZERS),
            *_choice("gradients", self.gradients, ("fp32", "half")),
            *_choice("tensor_overlap", self.tensor_overlap, TENSOR_OVERLAPS),
            *_choice("gathered_inputs", self.gathered_inputs, GATHERED_INPUTS),
            *_choice("context_method", self.context_method, CONTEXT_METHODS),
            *_choice("dispatch", self.dispatch, DISPATCHES),
            *_choice("data_overlap", self.data_overlap, DATA_OVERLAPS),
        ]
        if self.zero not in (0, 1, 2, 3):
            problems.append(Problem("training.zero", "unknown stage", repr(self.zero), "0, 1, 2, 3"))
        if self.attention_version not in ATTENTION_VERSIONS:
            found = repr(self.attention_version)
            problems.append(Problem("training.attention_version", "unknown version", found, "1, 2, 3"))
        if self.fsdp not in FSDP_GENERATIONS:
            problems.append(Problem("training.fsdp", "unknown generation", repr(self.fsdp), "0, 1, 2"))
        if self.optimizer == "adam-remainders" and self.precision not in ("bf16", "fp8"):
            message = "completes bf16 weights to fp32, and these are not"
            problems.append(Problem("training.optimizer", message, f"{self.precision!r}", "with bf16 or fp8"))
        for field in ("micro_batch", "global_batch"):
            if getattr(self, field) < 1:
                allowed = "a whole number of at least 1"
                problems.append(Problem(f"training.{field}", "is not usable", repr(getattr(self, field)), allowed))
        if problems:
            raise ConfigError(problems)

    @property
    def remainders(self) -> bool:
        """Whether weights and their remainders together are the optimizer's fp32 copy."""
        return self.optimizer == "adam-remainders"

    @property
    def fully_sharded(self) -> bool:
        """Whether PyTorch's fully sharded data parallelism holds the state: ``zero`` leaves it anything to shard."""
        return self.fsdp > 0 and self.zero > 0

    @property
    def stored_precision(self) -> str:
        """What weights and activations are stored in."""
        return "bf16" if self.precision == "fp8" else self.precision

    @property
    def element_bytes(self) -> int:
        """Bytes of one stored weight, activation or message element."""
        return 4 if self.precision == "fp32" else 2

    @property
    def product_bytes(self) -> int:
        """Bytes of one element of a matrix product's input that the backward needs: 1 in fp8, as
        NVIDIA/TransformerEngine keeps it.
        """
        return 1 if self.precision == "fp8" else self.element_bytes

    @property
    def gradient_bytes(self) -> int:
        """Bytes of one accumulated and reduced gradient element."""
        return 4 if self.gradients == "fp32" else self.element_bytes


def _choice(field: str, value: str, allowed: tuple[str, ...]) -> list[Problem]:
    if value in allowed:
        return []
    close = nearest(str(value), allowed)
    return [Problem(f"training.{field}", "unknown", repr(value), ", ".join(allowed), close)]
