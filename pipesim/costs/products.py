"""Sizes of the matrix products that one GPU runs for a weight matrix, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass

from pipesim.costs.gemm import Role
from pipesim.workload.matrices import Matrix
from pipesim.workload.shard import Shard


@dataclass(frozen=True)
class Product:
    """``groups`` products of (m x k) by (k x n) in one kernel. Sizes that do not divide are fractions."""

    m: float
    n: float
    k: float
    groups: int = 1

    @property
    def flops(self) -> float:
        """Floating-point operations, a multiply-add counted as two."""
        return 2 * self.groups * self.m * self.n * self.k


def product(matrix: Matrix, role: Role, tokens: float, shard: Shard) -> Product:
    """The product of one matrix over the ``tokens`` of a tensor-parallel group.

    Routed experts run as one grouped product over the experts of this GPU. The summed-over dimension of a weight
    gradient is the tokens.
    """
    rows, inputs, outputs = tokens, float(matrix.inputs), float(matrix.outputs)
    groups, ways = 1, shard.tensor
    if matrix.copies > 1:
        ways = shard.expert_tensor
        groups = max(matrix.copies // shard.expert, 1)
        rows *= matrix.active * ways / shard.tensor / groups
    if matrix.split == "column":
        outputs /= ways
    elif matrix.split == "row":
        inputs /= ways
    else:
        rows /= shard.sequence_ways
    if role == "forward":
        return Product(rows, outputs, inputs, groups)
    if role == "input_grad":
        return Product(rows, inputs, outputs, groups)
    return Product(inputs, outputs, rows, groups)
