"""Attention of one layer, on one GPU or with the sequence cut over the GPUs of a context-parallel group.

- ``ring`` (Megatron-LM with TransformerEngine, ``cp_comm_type: p2p``): keys and values go round a ring, in the backward
  their gradients too; every step attends to one block and adds its result to the output by one fused kernel
  (NVIDIA/TransformerEngine:transformer_engine/pytorch/attention, `flash_attn_fwd_out_correction`).
- ``all-to-all`` (Ulysses, arXiv 2309.14509; ``a2a``): each GPU gets whole sequences of a part of the heads and gives
  the result back; nothing overlaps.
- ``torch-ring`` (PyTorch since 2024, pytorch/pytorch:torch/distributed/tensor/experimental/_attention.py): keys and
  values, repeated to all heads as Llama's code in PyTorch does, are gathered at once; results are merged in fp32;
  gradients of keys and values go round the ring in fp32. Op by op the gathering is beside the first block and all hops
  but the last beside the next one. Compiled, the same collectives are waited for right where they are started
  (`_maybe_wrap_tensor` in torch/distributed/_functional_collectives.py), and merging takes one kernel.

A causal sequence is cut into 2 c chunks of which every GPU has one early and one late, so all steps are equal but the
first: c - 1 blocks of s/c queries by s/2c keys without a mask, after one causal block of s/c. Blocks run at the
attention rate of their own length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pipesim.costs.attention import Core, core_seconds
from pipesim.costs.collectives import OVERLAP_PRICE, Operation
from pipesim.costs.elementwise import Traffic, elementwise_seconds, kernel
from pipesim.costs.phases import Phase
from pipesim.hardware import GPU
from pipesim.workload.training import Training

_FP32 = 4


@dataclass(frozen=True)
class ContextAttention:
    """The attention core of one layer: ``core`` of the whole sequence and this GPU's heads, over ``ways`` GPUs.

    ``groups`` heads of keys and values on this GPU; ``collective`` prices one in the context-parallel group, ``hop``
    a message of so many bytes from every GPU to the next one of the group.
    """

    core: Core
    groups: float
    ways: int
    training: Training
    gpu: GPU
    collective: Callable[[Operation, float], float]
    hop: Callable[[float], float]

    def phase(self, backward: bool) -> Phase:
        """Forward or backward, with the communication that nothing hides."""
        if self.ways == 1:
            return Phase(self.block_seconds(self.core, backward))
        if self.training.context_method == "all-to-all":
            return self._all_to_all(backward)
        first, later = self.blocks
        steps = [self.block_seconds(first, backward), self.block_seconds(later, backward)]
        merging = elementwise_seconds(self._merging(backward), self.gpu)
        compute_s = steps[0] + (self.ways - 1) * steps[1] + merging
        torch = self.training.context_method == "torch-ring"
        sent, exposed = self._gathered(backward, steps) if torch else self._passed_round(backward, steps)
        return Phase(compute_s + exposed + OVERLAP_PRICE * (sent - exposed), exposed)

    def block_seconds(self, core: Core, backward: bool) -> float:
        """One attention kernel."""
        return core_seconds(core, self.gpu, self.training.precision, self.training.flash_attention, backward)

    @property
    def blocks(self) -> tuple[Core, Core]:
        """The first step's block, and each later one's."""
        length = self.core.sequence / self.ways
        first = replace(self.core, sequence=length)
        if not self.core.causal:
            return first, first
        return first, replace(self.core, sequence=length / 2, share=2.0, causal=False)

    def _all_to_all(self, backward: bool) -> Phase:
        """Queries, keys and values there, the output back; in the backward all gradients the other way."""
        core = replace(self.core, heads=max(self.core.heads / self.ways, 1.0))
        inputs = self._queries * self.core.query_key + self._keys_and_values(self.groups)
        outputs = self._queries * self.core.value
        element = self.training.element_bytes
        sent = sum(self.collective("all_to_all", element * size) for size in (inputs, outputs))
        packed = kernel(2 * element * (inputs + outputs))  # and again behind, chunks put in order
        return Phase(self.block_seconds(core, backward) + sent + elementwise_seconds(packed + packed, self.gpu), sent)

    def _passed_round(self, backward: bool, steps: list[float]) -> tuple[float, float]:
        """Seconds of sending, and how many stick out: a hop beside each step but the last."""
        size = (2 if backward else 1) * self.training.element_bytes * self._keys_and_values(self.groups)
        hop = self.hop(size)
        slack = [steps[0], *[steps[1]] * (self.ways - 2)]
        return (self.ways - 1) * hop, sum(max(0.0, hop - each) for each in slack)

    def _gathered(self, backward: bool, steps: list[float]) -> tuple[float, float]:
        """The same, gathering beside the first step; in the backward fp32 gradients hop beside the next step."""
        size = self._keys_and_values(self.core.heads)
        gather = self.collective("all_gather", self.ways * self.training.element_bytes * size)
        hop = self.hop(_FP32 * size) if backward else 0.0
        sent = gather + self.ways * hop
        if self.training.fused_kernels:
            return sent, sent
        return sent, max(0.0, gather - steps[0]) + (self.ways - 1) * max(0.0, hop - steps[1]) + hop

    def _merging(self, backward: bool) -> Traffic:
        """Adding up partial results of all steps."""
        if self.training.context_method == "torch-ring":
            merging = self._fused_merging if self.training.fused_kernels else self._separate_merging
            return sum(merging(backward), Traffic())
        element = self.training.element_bytes
        step = [kernel(3 * element * self._output(backward))]
        step += [kernel(3 * element * self._keys_and_values(self.groups))] if backward else []
        return sum(self.ways * step, Traffic())

    def _separate_merging(self, backward: bool) -> list[Traffic]:
        """PyTorch's kernels of all steps, op by op."""
        element, output = self.training.element_bytes, self._output(backward)
        sent = self._keys_and_values(self.core.heads)
        gradients = _FP32 * 2 + element, 2 * _FP32  # added to the sum; copied to be sent
        if backward:
            step = [kernel(output * gradients[0]), *(kernel(sent * size) for size in gradients)]
        else:  # to fp32; difference; weighted by a sigmoid; subtracted; keys and values copied to be sent
            step = [kernel(output * size) for size in (element + _FP32, 3 * _FP32, 2 * _FP32, 3 * _FP32)]
            step += [kernel(2 * element * sent)]
        return self.ways * step

    def _fused_merging(self, backward: bool) -> list[Traffic]:
        """PyTorch's kernels of all steps, compiled, and one that puts keys and values together to be gathered."""
        element, sent = self.training.element_bytes, self._keys_and_values(self.core.heads)
        added = _FP32 + element + _FP32  # the sum, what is added, the new sum
        step = [kernel(added * self._output(backward))]
        step += [kernel(added * sent)] if backward else []
        return [kernel(2 * element * sent), *(self.ways if backward else self.ways - 1) * step]

    def _output(self, backward: bool) -> float:
        """Elements of this GPU's output, or of its queries' gradient."""
        return self._queries * (self.core.query_key if backward else self.core.value)

    @property
    def _queries(self) -> float:
        """Queries of this GPU: tokens times heads."""
        return self.core.batch * self.core.sequence / self.ways * self.core.heads

    def _keys_and_values(self, groups: float) -> float:
        """Elements of the keys and values that lie on this GPU."""
        tokens = self.core.batch * self.core.sequence / self.ways
        return tokens * groups * (self.core.query_key + self.core.value)
