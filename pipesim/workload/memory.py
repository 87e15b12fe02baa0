"""Bytes per GPU: the activations that a forward leaves for its backward, and the state of weights.

Activations follow Korthikanti et al. 2022 (arXiv 2205.05198), section 4, term by term, extended to grouped
queries, gated MLPs, experts, latent attention and FlashAttention. For GPT in half precision they are
exactly s b h (34 + 5 a s / h), with tensor parallelism s b h (10 + 24/t + 5 a s / (h t)), with sequence
parallelism all of it / t, with selective recomputation without the 5 a s / h, with full recomputation 2 s b
h; with recomputation of all but attention 4 s b h and what the core's own backward needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipesim.workload.eager import activation_widths, norm_bytes
from pipesim.workload.matrices import Matrix, head_matrices, layer_matrices
from pipesim.workload.model import Model
from pipesim.workload.recompute import kept_matrices, separate_matrices
from pipesim.workload.shard import Shard
from pipesim.workload.training import WHOLE_LAYER, Training

LayerBytes = Callable[[Model, bool, Training, Shard], float]

_MASK = 1
_STATISTICS = 4
_TOKEN_ID = 8
_LOGIT = 4
_MASTER = {"bf16": 4, "fp16": 4, "fp8": 4, "fp32": 0}
_SHARD = 4
_REMAINDER = 2
MOMENT_BYTES = {"adam": 8, "adam-remainders": 8, "adam-bf16": 4, "momentum": 4, "sgd": 0}


def tokens(model: Model, training: Training, shard: Shard) -> float:
    """Tokens of one micro-batch that one tensor-parallel group works on."""
    return training.micro_batch * model.sequence / shard.context


def layer_activations(model: Model, mixture: bool, training: Training, shard: Shard) -> float:
    """Bytes that one layer's forward keeps for one micro-batch, after what recomputation saves."""
    if training.recompute in WHOLE_LAYER:
        return layer_input(model, training, shard)
    if training.recompute == "per-op":
        return layer_input(model, training, shard) + _kept_outputs(model, mixture, training, shard)
    if training.recompute == "without-attention":
        return layer_input(model, training, shard) + _attention_results(model, training, shard)
    stored = layer_working_set(model, mixture, training, shard)
    if training.recompute == "selective":
        stored -= attention_core(model, training, shard)
    if training.recompute == "pointwise":
        stored -= _pointwise(model, mixture, training, shard)
    return stored


def _kept_outputs(model: Model, mixture: bool, training: Training, shard: Shard) -> float:
    """Outputs of attention and of the products that per-op recomputation keeps; in PyTorch without compilation also
    that of the last one, which nothing reads.
    """
    matrices = kept_matrices(model, mixture)
    if not training.fused_kernels:
        matrices = matrices + separate_matrices(model, mixture)[-1:]
    width = sum(matrix.outputs / (shard.tensor if matrix.split == "column" else 1) for matrix in matrices)
    products = training.element_bytes * tokens(model, training, shard) * width
    return products + attention_output(model, training, shard) + attention_core(model, training, shard)


def _pointwise(model: Model, mixture: bool, training: Training, shard: Shard) -> float:
    """What repeating norms, activation functions and dropout saves: 14 s b h in GPT, which leaves 20 s b h
    (PipeOffload, arXiv 2503.01328, section 5.4).
    """
    residual = layer_input(model, training, shard)
    saved = 2 * (_normed(residual, training, shard) + _inside_norm(model, training, shard))  # of the two norms
    if model.dropout:
        saved += 2 * _MASK * residual / training.element_bytes
        if not training.flash_attention:
            rows = tokens(model, training, shard) * model.heads / shard.tensor
            saved += (_MASK + training.element_bytes) * rows * model.sequence
    moe = model.moe if mixture else None
    width = model.ffn if moe is None else moe.top_k * moe.ffn + moe.shared_ffn
    each = training.product_bytes + training.element_bytes * activation_widths(model, training)
    return saved + each * tokens(model, training, shard) * width / shard.tensor


def _attention_results(model: Model, training: Training, shard: Shard) -> float:
    """What the core's backward needs besides queries, keys and values: its output, and statistics or scores."""
    return attention_output(model, training, shard) + attention_core(model, training, shard)


def layer_input(model: Model, training: Training, shard: Shard) -> float:
    """The layer's input alone: 2 s b h, divided by sequence parallelism."""
    return training.element_bytes * tokens(model, training, shard) * model.hidden / shard.sequence_ways


def layer_working_set(model: Model, mixture: bool, training: Training, shard: Shard) -> float:
    """Bytes of everything that one layer's backward reads when nothing is recomputed."""
    feed_forward = _mixture if mixture else _dense
    residual = layer_input(model, training, shard)
    mask = _MASK * residual / training.element_bytes if model.dropout else 0.0
    output = attention_output(model, training, shard)
    copy = _product_input(output, training) if training.precision == "fp8" else 0.0  # attention's backward reads bf16
    return (
        2 * residual  # inputs of the two norms
        + 2 * _normed(residual, training, shard)  # outputs of the two norms, read by QKV and by the MLP
        + 2 * _inside_norm(model, training, shard)
        + 2 * mask
        + attention_inputs(model, training, shard)
        + output
        + copy
        + attention_core(model, training, shard)
        + feed_forward(model, training, shard)
    )


def _normed(residual: float, training: Training, shard: Shard) -> float:
    """Bytes of one norm's output as its products read it: gathered, where that is kept."""
    return _product_input(residual, training) * (shard.sequence_ways if training.gathered_inputs == "kept" else 1)


def _inside_norm(model: Model, training: Training, shard: Shard) -> float:
    """Bytes that a norm of the residual stream keeps between its operations, where they are more than one."""
    return norm_bytes(model, training) * layer_input(model, training, shard) / training.element_bytes


def _product_input(size: float, training: Training) -> float:
    """Bytes of what only products read, from its bytes in the activations' precision."""
    return size * training.product_bytes / training.element_bytes


def layer_transient(model: Model, mixture: bool, training: Training, shard: Shard, mlp_chunks: int = 1) -> float:
    """Bytes that one layer's backward works in at its widest.

    Gradients around the feed-forward block (of one of ``mlp_chunks`` pieces of the sequence at a time), with
    sequence parallelism the gathered input and its gradient, and the gradient of the largest matrix, which
    autograd allocates in the weights' precision even where the product adds to the accumulated gradient itself
    (megatron/core/tensor_parallel/layers.py).
    """
    width = model.moe.ffn * model.moe.top_k if mixture and model.moe else model.ffn
    features = _hidden_features(model, width) / shard.tensor / mlp_chunks
    gathered = 2 * model.hidden if shard.sequence_parallel else model.hidden
    largest = max(matrix.inputs * matrix.outputs for matrix in layer_matrices(model, mixture)) / shard.tensor
    return training.element_bytes * (tokens(model, training, shard) * (features + gathered) + largest)


def logits(model: Model, training: Training, shard: Shard) -> float:
    """Bytes of the logits, or of their gradient, in the weights' precision."""
    return training.element_bytes * tokens(model, training, shard) * model.vocab / shard.tensor


def head_transient(model: Model, training: Training, shard: Shard) -> float:
    """Bytes that the head's backward works in: gradients of logits and projection, as precise as weights.

    Without a fused loss, before that: fp32 gradients of the picked log-probabilities and of the log-softmax; where the
    vocabulary is split, three fp32 arrays (PyTorch's loss_parallel, torch/distributed/tensor/parallel/loss.py).
    """
    if model.head == "none":
        return 0.0
    projection = training.element_bytes * model.hidden * model.vocab / shard.tensor
    after = logits(model, training, shard) + projection
    if training.fused_loss:
        return after
    arrays = 2 if shard.tensor == 1 else 3
    return max(after, arrays * _LOGIT * tokens(model, training, shard) * model.vocab / shard.tensor)


def attention_inputs(model: Model, training: Training, shard: Shard) -> float:
    """Queries, keys and values: 6 s b h in GPT; latents too in MLA, and what their norms keep between operations."""
    groups = max(model.kv_heads / shard.tensor, 1.0)
    heads = model.heads / shard.tensor
    if model.mla:
        groups = heads
    features = heads * model.query_key_dim + groups * (model.query_key_dim + model.value_dim)
    between = 0.0
    if model.mla:  # each latent before and after its norm; the rotary part of the keys once
        latents = model.mla.query_rank + model.mla.kv_rank
        features += (2 * latents + model.mla.rope) / shard.sequence_ways
        between = norm_bytes(model, training) * tokens(model, training, shard) * latents / shard.sequence_ways
    return training.element_bytes * tokens(model, training, shard) * features + between


def attention_output(model: Model, training: Training, shard: Shard) -> float:
    """What the core of attention hands to the output projection: 2 s b h in GPT."""
    return training.element_bytes * tokens(model, training, shard) * model.heads * model.value_dim / shard.tensor


def attention_core(model: Model, training: Training, shard: Shard) -> float:
    """What selective recomputation saves: softmax output, dropout mask and output (5 a s^2 b), or with
    FlashAttention one fp32 statistic per query and head, which nothing saves.
    """
    heads = model.heads / shard.tensor
    rows = tokens(model, training, shard) * heads
    if training.flash_attention:
        return _STATISTICS * rows if training.recompute != "selective" else 0.0
    per_score = training.element_bytes + ((_MASK + training.element_bytes) if model.dropout else 0)
    return per_score * rows * model.sequence


def _dense(model: Model, training: Training, shard: Shard) -> float:
    """Input and output of the activation function (both inputs when gated): 16 s b h in GPT."""
    return tokens(model, training, shard) * _hidden_bytes(model, model.ffn, training) / shard.tensor


def _mixture(model: Model, training: Training, shard: Shard) -> float:
    """Router scores in fp32, copies of tokens sent to experts, their activations; shared experts."""
    assert model.moe is not None
    visits = tokens(model, training, shard) * shard.expert_tensor / shard.tensor * model.moe.top_k
    inside = _hidden_bytes(model, model.moe.ffn, training) / shard.expert_tensor
    routed = visits * (training.product_bytes * model.hidden + inside)
    shared = tokens(model, training, shard) * _hidden_bytes(model, model.moe.shared_ffn, training) / shard.tensor
    router = 4 * tokens(model, training, shard) / shard.sequence_ways * model.moe.experts
    return router + routed + shared


def _hidden_features(model: Model, width: int) -> int:
    return width * (3 if model.gated_mlp else 2)


def _hidden_bytes(model: Model, width: int, training: Training) -> float:
    """Per token: what the activation function reads and keeps, and its output, which the second product reads."""
    before = _hidden_features(model, width) - width + activation_widths(model, training) * width
    return training.element_bytes * before + training.product_bytes * width


def weight_grad_activations(model: Model, mixture: bool, training: Training, shard: Shard) -> float:
    """Bytes that W of one layer still needs after I: each matrix's input and its output's gradient.

    32 s b h in GPT (Qi et al. 2024, arXiv 2401.10241, section 3).
    """
    return matrix_activations(layer_matrices(model, mixture), model, training, shard)


def matrix_activations(matrices: Sequence[Matrix], model: Model, training: Training, shard: Shard) -> float:
    """Bytes of the inputs of some matrices and of their outputs' gradients."""
    count = tokens(model, training, shard)
    return count * sum(_kept_bytes(matrix, training, shard) for matrix in matrices)


def _kept_bytes(matrix: Matrix, training: Training, shard: Shard) -> float:
    """Bytes per token of a matrix's input (unless counted before) and its output's gradient."""
    if matrix.copies > 1:
        share, ways, whole = matrix.active * shard.expert_tensor / shard.tensor, shard.expert_tensor, 1
    else:
        share, ways, whole = 1.0, shard.tensor, shard.sequence_ways
    read = 1 if training.gathered_inputs == "kept" else whole
    inputs = 0.0 if matrix.shared_input else matrix.inputs / (ways if matrix.split == "row" else read)
    outputs = matrix.outputs / (ways if matrix.split == "column" else whole)
    return share * (training.product_bytes * inputs + training.element_bytes * outputs)


def embedding_activations(model: Model, training: Training, shard: Shard) -> float:
    """Token ids and the dropout mask (NVIDIA/Megatron-LM:megatron/training/theoretical_memory_usage.py)."""
    count = tokens(model, training, shard)
    mask = _MASK * count * model.hidden / shard.sequence_ways if model.dropout else 0.0
    return _TOKEN_ID * count + mask


def head_activations(model: Model, training: Training, shard: Shard) -> float:
    """Input of the final norm, input of the projection and fp32 logits: 4 s b h (1 + V/h) / t
    (arXiv 2205.05198, section 4.3), and BERT's transform before them; what is between the norm's operations.
    """
    if model.head == "none":
        return 0.0
    count = tokens(model, training, shard)
    inputs = (len(head_matrices(model)) + 1) * layer_input(model, training, shard)
    inputs += _inside_norm(model, training, shard)
    return inputs + _LOGIT * count * model.vocab / shard.tensor


@dataclass(frozen=True)
class StateBytes:
    """Resident bytes of one GPU."""

    weights: float
    gradients: float
    optimizer: float

    def __add__(self, other: StateBytes) -> StateBytes:
        return StateBytes(
            self.weights + other.weights, self.gradients + other.gradients, self.optimizer + other.optimizer
        )


def bytes_per_parameter(training: Training) -> StateBytes:
    """Unsharded bytes per parameter: 18 for Adam in bf16 with fp32 gradients, 16 with half ones or in fp32.

    Weights and gradients as `Training` says, an fp32 master copy unless the weights are fp32 themselves,
    and the optimizer's moments (NVIDIA/Megatron-LM, documentation of the distributed optimizer; Korthikanti
    et al. 2022, Figure 1, whose bars are 18 bytes per parameter).
    """
    master = _REMAINDER if training.remainders else _MASTER[training.precision]
    optimizer = master + MOMENT_BYTES[training.optimizer]
    return StateBytes(training.element_bytes, training.gradient_bytes, optimizer)


def state_bytes(parameters: float, training: Training, ways: int) -> StateBytes:
    """State of ``parameters`` held by a GPU, sharded by ZeRO over ``ways`` replicas (6 + 12/D at stage 1).

    At stage 3, as in PyTorch's FSDP, the shards are the fp32 copy, and so are the gradients' (16/D); weights in the
    precision of the products exist only while gathered.
    """
    each = bytes_per_parameter(training)
    if training.zero >= 3 and ways > 1:
        each = StateBytes(_SHARD, _SHARD, MOMENT_BYTES[training.optimizer])
    return StateBytes(
        parameters * each.weights / (ways if training.zero >= 3 else 1),
        parameters * each.gradients / (ways if training.zero >= 2 else 1),
        parameters * each.optimizer / (ways if training.zero >= 1 else 1),
    )
