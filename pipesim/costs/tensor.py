"""Communication of tensor parallelism in one layer, and what of it runs beside matrix products.

- Without sequence parallelism: an all-reduce after each row-split matrix in the forward, and after each column-split
  one in the input gradient (Narayanan et al. 2021, arXiv 2104.04473, section 3.2).
- With sequence parallelism: an all-gather before and a reduce-scatter after each block in either direction. What is
  gathered feeds products, so in fp8 it is cast before (pytorch/ao:torchao/float8/float8_tensor_parallel.py;
  NVIDIA/TransformerEngine:transformer_engine/pytorch/module/layernorm_linear.py).
- For the weight gradient, Megatron-LM gathers each block's input again, beside the input gradient's products unless
  nothing overlaps (Korthikanti et al. 2022, arXiv 2205.05198, section 4.2.2). PyTorch keeps it (`gathered_inputs`).

`Training.tensor_overlap` says what runs beside products. The compiler of PyTorch finds a product right behind each
gather and before each scatter of the forward, but before those of the backward the sum of several (pytorch/pytorch pull
request 149946), so these overlap with nothing. What its scatters then receive is added up by a kernel of its own
(`_pipelined_produce_and_all2all` in torch/distributed/_symmetric_memory/__init__.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipesim.costs.collectives import OVERLAP_PRICE, Operation
from pipesim.costs.elementwise import Traffic, kernel
from pipesim.costs.gemm import Role
from pipesim.costs.phases import Phase, total
from pipesim.workload.matrices import Matrix
from pipesim.workload.shard import Shard
from pipesim.workload.training import Training


@dataclass(frozen=True)
class TensorParallel:
    """Tensor parallelism of layers whose residual stream has ``elements`` per micro-batch.

    ``collective`` prices one of so many bytes in the group; ``products`` the products of some matrices in a role,
    ``kernels`` memory-bound ones.
    """

    training: Training
    shard: Shard
    elements: float
    collective: Callable[[Operation, float], Phase]
    products: Callable[[Iterable[Matrix], Role], Phase]
    kernels: Callable[[Traffic], Phase]

    def around(self, blocks: int) -> Phase:
        """What so many blocks exchange in one direction."""
        return self.gathered(blocks) + self.reduced(blocks)

    def gathered(self, times: int = 1) -> Phase:
        """Gathering the residual stream for the products of a block."""
        if not self.shard.sequence_parallel:
            return Phase()
        return self.collective("all_gather", self.training.product_bytes * self.elements) * times

    def reduced(self, times: int = 1) -> Phase:
        """Adding up the output of a block."""
        operation: Operation = "reduce_scatter" if self.shard.sequence_parallel else "all_reduce"
        return self.collective(operation, self.training.element_bytes * self.elements) * times

    def gathered_outside(self) -> Phase:
        """Gathering the residual stream for the head, or its gradient for the embedding."""
        if not self.shard.sequence_parallel:
            return Phase()
        return self.collective("all_gather", self.training.element_bytes * self.elements)

    def gathered_again(self, blocks: Sequence[Sequence[Matrix]]) -> Phase:
        """Gathering the inputs of blocks for their weight gradients: what the input gradient does not hide."""
        if self.training.gathered_inputs == "kept":
            return Phase()
        gathered = self.gathered(len(blocks))
        if self.training.tensor_overlap == "none":
            return gathered
        hidden = (self._hidden(self.gathered(), block, "column", "input_grad", 1.0) for block in blocks)
        return gathered + total(hidden) * -1

    def beside_weight_grad(self, blocks: Iterable[Sequence[Matrix]]) -> Phase:
        """Reducing the input's gradient beside the products that make the gradient of the same weights."""
        waits = self.training.tensor_overlap == "none" or self.training.gathered_inputs == "kept"
        if waits or self.shard.tensor == 1:
            return Phase()
        return total(self._hidden(self.reduced(), block, "column", "weight_grad", 1.0) for block in blocks)

    def beside(self, blocks: Iterable[Sequence[Matrix]], role: Role) -> Phase:
        """Gathering beside the product it feeds, and scattering beside the one it follows, piece by piece: all
        but one of as many pieces as GPUs. What the gradient's scatter hides behind is `beside_weight_grad`.
        """
        if not self._piecewise:
            return Phase()
        gathers = total(self._beside_gathering(block, role) for block in blocks)
        if role != "forward":
            return gathers
        return gathers + total(self._beside_reducing(block) for block in blocks)

    def gathered_before(self, block: Sequence[Matrix]) -> Phase:
        """Gathering the input of a block in the forward, without what its first products hide."""
        return self.gathered() + (self._beside_gathering(block, "forward") * -1 if self._piecewise else Phase())

    def reduced_behind(self, block: Sequence[Matrix]) -> Phase:
        """Adding up the output of a block in the forward, without what its last product hides."""
        return self.reduced() + (self._beside_reducing(block) * -1 if self._piecewise else Phase())

    @property
    def _piecewise(self) -> bool:
        return self.training.tensor_overlap == "full" and self.shard.sequence_parallel

    @property
    def _share(self) -> float:
        return 1.0 - 1.0 / self.shard.tensor

    def _beside_gathering(self, block: Sequence[Matrix], role: Role) -> Phase:
        first = "column" if role == "forward" else "row"
        return self._hidden(self.gathered(), block, first, role, self._share)

    def _beside_reducing(self, block: Sequence[Matrix]) -> Phase:
        hidden = self._hidden(self.reduced(), block, "row", "forward", self._share)
        if self.training.gathered_inputs == "again":
            return hidden
        pieces = self.training.element_bytes * self.elements
        return hidden + self.kernels(kernel(pieces + pieces / self.shard.tensor)) * -1

    def _hidden(self, sent: Phase, block: Iterable[Matrix], split: str, role: Role, share: float) -> Phase:
        """What a collective saves beside the products of a block's matrices that are split so."""
        products = self.products([matrix for matrix in block if matrix.split == split], role).seconds
        hidden = min(sent.seconds, products * share)
        return Phase((1.0 - OVERLAP_PRICE) * hidden, hidden)
