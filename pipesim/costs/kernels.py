"""Memory-bound kernels of one transformer layer and what they move, per GPU.

Each function lists kernels, one per line, as multiples of the elements they touch: a norm reads its input
and writes its output (2 elements per hidden unit); bias + dropout + residual reads two tensors, writes one
and a mask; and so on. ``whole`` counts elements of the residual stream on this GPU (divided by sequence
parallelism).
"""

from __future__ import annotations

from pipesim.costs.elementwise import Traffic, gated, gather, kernel, rotary
from pipesim.costs.launches import router_kernels, routing_kernels
from pipesim.workload.memory import tokens
from pipesim.workload.model import Model
from pipesim.workload.parameters import layer_parameters
from pipesim.workload.shard import Shard
from pipesim.workload.training import Training

_MASK = 1


class Kernels:
    """Kernels of one layer of a model on one GPU, fused; ``mixture`` says whether the layer has experts."""

    def __init__(self, model: Model, training: Training, shard: Shard, mixture: bool) -> None:
        self.model, self.training, self.shard, self.mixture = model, training, shard, mixture
        self.element = training.element_bytes
        self.tokens = tokens(model, training, shard)
        self.whole = self.tokens * model.hidden / shard.sequence_ways

    def norm(self) -> Traffic:
        """One norm."""
        return self._norm(self.whole)

    def norm_backward(self) -> Traffic:
        """One norm backwards."""
        return self._norm_backward(self.whole)

    def residual(self) -> Traffic:
        """Bias, dropout and addition to the residual stream."""
        return kernel(self.whole * (3 * self.element + (_MASK if self.model.dropout else 0)))

    def activation(self) -> Traffic:
        """The activation functions of the feed-forward block."""
        return self._activations(False)

    def activation_backward(self) -> Traffic:
        """The same functions backwards."""
        return self._activations(True)

    def forward(self) -> Traffic:
        """Everything between the matrix products and the attention core."""
        total = self.norm() + self.residual() + self.norm() + self.residual() + self.around_attention()
        total += self.activation()
        if self.mixture and self.model.moe:
            total += self._routing(routing_kernels(self.model.moe, self.shard, self.training.dispatch))
        return total

    def repeated(self) -> Traffic:
        """What pointwise recomputation repeats: norms and the activation function; dropout draws its masks anew."""
        mask = kernel(_MASK * self.whole) if self.model.dropout else Traffic()
        return self.norm() + self.norm() + mask + mask + self.activation()

    def input_grad(self) -> Traffic:
        """The same kernels backwards; gradients of both branches of each residual are added, those of biases summed."""
        dropout = self._dropout()
        norm_and_add = self.norm_backward() + kernel(3 * self.element * self.whole)
        total = dropout + norm_and_add + dropout + norm_and_add
        total += self.around_attention() + self.activation_backward() + self.bias_grad()
        if self.mixture:
            total += self._routing(router_kernels(self.shard, self.training.dispatch))
        return total

    def bias_grad(self) -> Traffic:
        """Sums over tokens of the output gradients of each matrix with a bias. Only products are put off when
        backwards are split (sail-sg/zero-bubble-pipeline-parallelism:megatron/core/tensor_parallel/layers.py).
        """
        model = self.model
        total = Traffic()
        if model.biases and not self.mixture:
            features = model.ffn * (2 if model.gated_mlp else 1) / self.shard.tensor
            total += kernel(self.element * self.tokens * features)
            total += kernel(self.element * self.whole) + kernel(self.element * self.whole)
        if model.qkv_bias:
            total += kernel(self.element * self.qkv_elements())
        return total

    def weight_grad(self) -> Traffic:
        """Adding up the gradients of micro-batches where the products do not do that themselves; fully sharded by
        PyTorch's FSDP they are reduced each time instead (`fsdp.py`).
        """
        reduced = self.training.fully_sharded and self.training.zero == 3
        if self.training.fused_gradients or reduced:
            return Traffic()
        parameters = layer_parameters(self.model, self.mixture).per_gpu(self.shard.tensor, self.shard.expert)
        return kernel(parameters * (self.element + 2 * self.training.gradient_bytes))

    def qkv_elements(self) -> float:
        """Queries, keys and values of one micro-batch on this GPU."""
        model = self.model
        groups = max(model.kv_heads / self.shard.tensor, 1.0)
        heads = model.heads / self.shard.tensor
        return self.tokens * (heads * model.query_key_dim + groups * (model.query_key_dim + model.value_dim))

    def rotation(self) -> Traffic:
        """Rotation of queries and keys."""
        return rotary(2 * self.element * self.qkv_elements())

    def around_attention(self) -> Traffic:
        """Bias of QKV, rotation of queries and keys, norms of latents, copies that unfused attention
        needs.
        """
        model, element = self.model, self.element
        total = Traffic()
        if model.qkv_bias:
            total += kernel(2 * element * self.qkv_elements())
        if model.rotary:
            total += self.rotation()
        if model.mla:
            latent = self.tokens * (model.mla.query_rank + model.mla.kv_rank) / self.shard.sequence_ways
            total += self._norm(latent) + self._norm(latent)
        if not self.training.flash_attention:
            total += kernel(2 * element * self.tokens * model.heads * model.value_dim / self.shard.tensor)
        return total

    def _norm(self, elements: float) -> Traffic:
        return kernel(2 * self.element * elements)

    def _norm_backward(self, elements: float) -> Traffic:
        return kernel(3 * self.element * elements)

    def _dropout(self) -> Traffic:
        return kernel(self.whole * (2 * self.element + _MASK)) if self.model.dropout else Traffic()

    def _activation(self, elements: float, backward: bool) -> Traffic:
        """GeLU with its bias, or SwiGLU, over ``elements`` of the feed-forward width."""
        inputs = 2 if self.model.gated_mlp else 1
        passes = 1 + 2 * inputs if backward else inputs + 1
        return (gated if self.model.gated_mlp else kernel)(self.element * passes * elements)

    def _activations(self, backward: bool) -> Traffic:
        """The activation function of the dense block, or of routed and shared experts."""
        per_width = self.tokens / self.shard.tensor
        if not self.mixture or self.model.moe is None:
            return self._activation(per_width * self.model.ffn, backward)
        moe = self.model.moe
        routed = self._activation(per_width * moe.top_k * moe.ffn, backward)
        return routed + (self._activation(per_width * moe.shared_ffn, backward) if moe.shared_ffn else Traffic())

    def _routing(self, small: int) -> Traffic:
        """Choosing experts and finding places in ``small`` kernels, and permuting token copies to experts and back.
        After an all-to-all also copying them to and from groups of rows that fp8 products can take, which DeepEP's
        permutation does itself (NVIDIA/Megatron-LM megatron/core/transformer/moe/experts.py, `quantization_padding`).
        """
        assert self.model.moe is not None
        moe = self.model.moe
        here = self.tokens * self.shard.expert_tensor / self.shard.tensor
        copies = 2 * self.element * here * moe.top_k * self.model.hidden
        total = Traffic(small, 4 * 4 * here * moe.experts) + gather(copies) + gather(copies)
        if self.training.precision == "fp8" and self.training.dispatch == "all-to-all":
            total += kernel(copies) + kernel(copies)
        return total


def layer_kernels(model: Model, training: Training, shard: Shard, mixture: bool) -> Kernels:
    """Kernels of one layer, fused or not as ``training`` says."""
    from pipesim.costs.eager_kernels import EagerKernels

    return (Kernels if training.fused_kernels else EagerKernels)(model, training, shard, mixture)
