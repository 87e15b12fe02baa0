"""Seconds of one transformer layer, of the embedding and of the head, on one GPU of a rank.

Each piece is priced op by op: matrix products through the roofline (`gemm.py`), the attention core
(`attention.py`), memory-bound kernels (`kernels.py`) and the communication of tensor, context and expert
parallelism. Which collective belongs to which phase:

- Tensor parallelism: around each block (`tensor.py`).
- Context parallelism: around and beside the attention core (`context.py`).
- Experts: tokens are dispatched before and combined after the experts, in either direction (`dispatch.py`).

Recomputation repeats what `pipesim.workload.training` says, with its communication.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from pipesim.costs.attention import Core
from pipesim.costs.collectives import OVERLAP_PRICE, Collectives, Operation, ring_hop_seconds
from pipesim.costs.context import ContextAttention
from pipesim.costs.dispatch import round_trip_seconds
from pipesim.costs.elementwise import Traffic, elementwise_seconds, gather, kernel
from pipesim.costs.gemm import Role, product_seconds
from pipesim.costs.kernels import layer_kernels
from pipesim.costs.launches import mixture_ratio
from pipesim.costs.links import network_channels
from pipesim.costs.phases import LayerTimes, Phase
from pipesim.costs.products import Product, product
from pipesim.costs.spread import slowest
from pipesim.costs.tensor import TensorParallel
from pipesim.errors import ConfigError
from pipesim.hardware import GPU, Cluster, Layout
from pipesim.hardware.layout import GroupKind
from pipesim.workload.matrices import Matrix, attention_matrices, feed_forward_matrices, head_matrices
from pipesim.workload.memory import layer_input, tokens
from pipesim.workload.model import Model
from pipesim.workload.recompute import repeated_matrices
from pipesim.workload.shard import Shard
from pipesim.workload.training import WHOLE_LAYER, Training

# Vocabulary-parallel cross entropy in fp32, bytes per logit
# (megatron/core/tensor_parallel/cross_entropy.py): cast 2 + 4, maximum 4, subtract 8, exponentiate 8, sum
# 4, divide 8; backward: scale 8, cast 4 + 2.
_LOSS_FORWARD, _LOSS_BACKWARD = 38, 14


class LayerCosts:
    """Prices layers, embedding and head of one model under one layout and way of training.

    Raises ConfigError when the model cannot be cut that way or the GPU lacks the precision.
    """

    def __init__(self, model: Model, cluster: Cluster, layout: Layout, training: Training) -> None:
        self.model, self.layout, self.training = model, layout, training
        self.cluster = cluster
        self.gpu: GPU = cluster.gpu
        self.pace = slowest(self.gpu.spread, layout.world_size)
        self.collectives = Collectives(cluster, training.old_nccl)
        self.shard = Shard(
            layout.tensor, layout.context, layout.expert, training.sequence_parallel and layout.tensor > 1
        )
        self.tokens = tokens(model, training, self.shard)
        problems = self.shard.problems(model)
        if problems:
            raise ConfigError(problems)
        self.gpu.gemm_fit(training.precision)  # raises ConfigError where the GPU lacks it

    def layer(self, mixture: bool = False) -> LayerTimes:
        """One transformer layer, for one micro-batch."""
        kernels = layer_kernels(self.model, self.training, self.shard, mixture)
        blocks = (attention_matrices(self.model), feed_forward_matrices(self.model, mixture))
        matrices = blocks[0] + blocks[1]
        split = blocks[:1] if self._dispatched(mixture) else blocks
        forward = self._matrices(matrices, "forward") + self._core_forward
        forward += self._kernels(kernels.forward()) + self._exchange(mixture)
        input_grad = self._matrices(matrices, "input_grad") + self._core_backward
        input_grad += self._kernels(kernels.input_grad()) + self._exchange(mixture) + self.tensor.gathered_again(split)
        weight_grad = self._matrices(matrices, "weight_grad") + self._kernels(kernels.weight_grad())
        forward += self.tensor.beside(split, "forward") * -1
        input_grad += self.tensor.beside(split, "input_grad") * -1
        if self.training.expert_overlap and self._dispatched(mixture):
            forward += self._beside_products(matrices, "input_grad", "weight_grad") * -1
            input_grad += self._beside_products(matrices, "forward") * -1
        overlap = self.tensor.beside_weight_grad(split)
        recompute = self._recompute(forward, mixture)
        return self._floored(LayerTimes(forward, input_grad, weight_grad, recompute, overlap), mixture)

    def embedding(self) -> LayerTimes:
        """Look-up of tokens, positions and dropout on the first stage; its gradient is all W."""
        model, element = self.model, self.training.element_bytes
        looked_up = 2 * element * self.tokens * model.hidden
        traffic = gather(looked_up)
        if model.positions:
            traffic += kernel(1.5 * looked_up)
        if model.dropout:
            traffic += kernel(looked_up)
        table = model.vocab * model.hidden / self.shard.tensor
        # A dense gradient of the table is cleared, scattered into and added to the accumulated one.
        scatter = gather(looked_up) + kernel(table * (2 * element + 2 * self.training.gradient_bytes))
        back = self.tensor.gathered_outside()
        return LayerTimes(self._kernels(traffic) + self.tensor.reduced(), Phase(), self._kernels(scatter) + back)

    def head(self) -> LayerTimes:
        """Final norm, vocabulary projection and loss on the last stage."""
        matrices = head_matrices(self.model)
        if not matrices:
            return LayerTimes()
        norm = kernel(2 * layer_input(self.model, self.training, self.shard))
        logits = self.tokens * self.model.vocab / self.shard.tensor
        forward = self._outside(matrices, "forward") + self._kernels(norm + kernel(logits * _LOSS_FORWARD))
        input_grad = self._outside(matrices, "input_grad")
        input_grad += self._kernels(norm + norm + kernel(logits * _LOSS_BACKWARD)) + self.tensor.reduced()
        return LayerTimes(forward + self.tensor.gathered_outside(), input_grad, self._outside(matrices, "weight_grad"))

    @property
    def message_bytes(self) -> float:
        """What one context-parallel rank hands to the next stage: b s h / c elements, before tensor
        parallelism divides it.
        """
        return self.training.element_bytes * self.tokens * self.model.hidden

    def product_seconds(self, sizes: Product, role: Role, precision: str | None = None) -> float:
        """One matrix product, possibly grouped, on the job's slowest GPU; in the layers' precision unless said. Weight
        gradients are added to in their own.
        """
        result_bytes = None
        if role == "weight_grad":
            fused, kept = self.training.fused_gradients, self.training.gradient_bytes
            result_bytes = 2 * kept if fused else self.training.element_bytes
        m, n, k, groups = sizes.m, sizes.n, sizes.k, sizes.groups
        given = precision or self.training.precision
        return self.pace * product_seconds(m, n, k, self.gpu, given, role, groups, result_bytes)

    @cached_property
    def core(self) -> Core:
        """The work of the attention core of whole sequences with this GPU's heads."""
        model, training = self.model, self.training
        return Core(
            batch=training.micro_batch,
            sequence=model.sequence,
            heads=max(model.heads / self.shard.tensor, 1.0),
            query_key=model.query_key_dim,
            value=model.value_dim,
            causal=model.causal,
            dropout=model.dropout,
            version=training.attention_version,
        )

    @cached_property
    def attention(self) -> ContextAttention:
        """The attention core over the context-parallel group."""
        group = self.layout.group("context")
        return ContextAttention(
            self.core,
            max((self.model.heads if self.model.mla else self.model.kv_heads) / self.shard.tensor, 1.0),
            self.shard.context,
            self.training,
            self.gpu,
            lambda operation, size: self._collective(operation, size, "context").seconds,
            lambda size: ring_hop_seconds(self.cluster, group, size, network_channels(self.training.old_nccl)),
        )

    @cached_property
    def tensor(self) -> TensorParallel:
        """Communication of tensor parallelism around the blocks of a layer."""
        return TensorParallel(
            self.training,
            self.shard,
            self.tokens * self.model.hidden,
            lambda operation, size: self._collective(operation, size, "tensor"),
            self._matrices,
            self._kernels,
        )

    # Pieces -------------------------------------------------------------------------------------------------

    def _matrices(self, matrices: Iterable[Matrix], role: Role) -> Phase:
        return Phase(sum(self._matrix(matrix, role) for matrix in matrices))

    def _outside(self, matrices: Iterable[Matrix], role: Role) -> Phase:
        """Products outside of the layers, which frameworks leave in bf16 where those are in fp8
        (megatron/core/models/gpt/gpt_model.py; module filter of pytorch/torchtitan:torchtitan/float8.py).
        """
        precision = self.training.stored_precision
        return Phase(sum(self._matrix(matrix, role, precision) for matrix in matrices))

    def _matrix(self, matrix: Matrix, role: Role, precision: str | None = None) -> float:
        return self.product_seconds(product(matrix, role, self.tokens, self.shard), role, precision)

    def _kernels(self, traffic: Traffic) -> Phase:
        return Phase(elementwise_seconds(traffic, self.gpu))

    @cached_property
    def _core_forward(self) -> Phase:
        return self.attention.phase(False).slowed(self.pace)

    @cached_property
    def _core_backward(self) -> Phase:
        return self.attention.phase(True).slowed(self.pace)

    def _dispatched(self, mixture: bool) -> bool:
        """Whether a layer's tokens are sent to experts on other GPUs."""
        return mixture and self.shard.expert > 1

    def _reduces(self, mixture: bool) -> bool:
        """Whether tensor parallelism adds up the output of the feed-forward block: of dense ones, and of shared
        experts; routed ones that tokens are sent to are whole.
        """
        return not self._dispatched(mixture) or bool(self.model.moe and self.model.moe.shared_ffn)

    def _exchange(self, mixture: bool) -> Phase:
        """Tensor and expert parallel communication of one layer in one direction."""
        exchanged = self.tensor.around(2 if self._reduces(mixture) else 1)
        return exchanged + self._dispatch() if self._dispatched(mixture) else exchanged

    def _dispatch(self) -> Phase:
        """Tokens to their experts and back."""
        assert self.model.moe is not None
        group, here = self.layout.group("expert"), self.tokens / self.shard.tensor
        each = self.training.element_bytes * self.model.hidden
        seconds = round_trip_seconds(self.training.dispatch, self.collectives, self.model.moe, group, here, each)
        return Phase(seconds, seconds)

    def _beside_products(self, matrices: Sequence[Matrix], *roles: Role) -> Phase:
        """What dispatching and combining save beside the products of another micro-batch, in these roles."""
        products = sum(self._matrices(matrices, role).seconds for role in roles)
        hidden = min(self._dispatch().seconds, products)
        return Phase((1.0 - OVERLAP_PRICE) * hidden, hidden)

    def _collective(self, operation: Operation, size_bytes: float, kind: GroupKind) -> Phase:
        group = self.layout.group(kind)
        seconds = self.collectives.seconds(operation, size_bytes, group) if group.size > 1 else 0.0
        return Phase(seconds, seconds)

    def _recompute(self, forward: Phase, mixture: bool) -> Phase:
        """What the backward repeats of the forward, communication included."""
        how = self.training.recompute
        if how == "full":
            return forward
        if how == "full-early-stop":
            return forward + self._last(mixture) * -1
        if how == "without-attention":
            return forward + self._core_forward * -1
        if how == "selective" and not self.training.flash_attention:
            return self._core_forward
        kernels = layer_kernels(self.model, self.training, self.shard, mixture)
        if how == "pointwise":
            return self._kernels(kernels.repeated())
        if how == "per-op":
            repeated = self._matrices(repeated_matrices(self.model, mixture), "forward")
            blocks = 2 if self._reduces(mixture) else 1
            gathered = self.tensor.gathered(blocks) if self.shard.sequence_parallel else self.tensor.reduced()
            return repeated + self._kernels(kernels.forward()) + gathered
        return Phase()

    def _last(self, mixture: bool) -> Phase:
        """The last product of a forward, and adding up its output, if tensor parallelism does."""
        block = feed_forward_matrices(self.model, mixture)
        product = self._matrices(block[-1:], "forward")
        if not self._dispatched(mixture):
            return product + self.tensor.reduced_behind(block)
        return product + self.tensor.reduced() if self._reduces(mixture) else product

    def _floored(self, times: LayerTimes, mixture: bool) -> LayerTimes:
        """No phase runs faster than the host launches it; the backward's floor is shared by its two halves."""
        if not self.training.launch_floor:
            return times
        moe = self.model.moe if mixture else None
        longer = mixture_ratio(moe, self.shard, self.training.dispatch) if moe else 1.0
        forward_s, backward_s = longer * self.gpu.launch_floor_forward_s, longer * self.gpu.launch_floor_backward_s
        backward = times.input_grad.seconds + times.weight_grad.seconds - times.overlap.seconds
        stretch = max(backward_s / backward, 1.0)
        halves = (times.input_grad, times.weight_grad)
        input_grad, weight_grad = (half.at_least(half.seconds * stretch) for half in halves)
        overlap = times.overlap.at_least(times.overlap.seconds * stretch)
        whole = self.training.recompute in (*WHOLE_LAYER, "without-attention")
        recompute = times.recompute.at_least(forward_s) if whole else times.recompute
        return LayerTimes(times.forward.at_least(forward_s), input_grad, weight_grad, recompute, overlap)
