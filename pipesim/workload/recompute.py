"""Which matrix products per-op recomputation repeats, and what it keeps.

PyTorch's selective activation checkpointing with the policy of pytorch/torchtitan
(torchtitan/parallelisms/parallelize_llama.py): attention, reduce-scatters and every second matrix product are kept, in
the order in which a layer of separate linear maps (queries, keys, values, output; gate, up, down) meets them; other
products and all pointwise work are repeated. Grouped products of experts are not in its list. What nothing in the
backward reads, such as the last product, is not repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from pipesim.workload.matrices import Matrix, layer_matrices
from pipesim.workload.model import Model


def separate_matrices(model: Model, mixture: bool) -> list[Matrix]:
    """The matrices of one layer as separate linear maps."""
    return list(_separate(model, layer_matrices(model, mixture)))


def repeated_matrices(model: Model, mixture: bool) -> list[Matrix]:
    """Those whose product per-op recomputation repeats."""
    matrices = separate_matrices(model, mixture)
    kept = _kept(matrices)
    return [matrix for matrix in matrices[:-1] if matrix not in kept]


def kept_matrices(model: Model, mixture: bool) -> list[Matrix]:
    """Those whose output per-op recomputation keeps for the backward."""
    matrices = separate_matrices(model, mixture)
    return [matrix for matrix in _kept(matrices) if matrix is not matrices[-1]]


def _kept(matrices: Iterable[Matrix]) -> list[Matrix]:
    return [matrix for matrix in matrices if matrix.copies == 1][::2]


def _separate(model: Model, matrices: Iterable[Matrix]) -> Iterator[Matrix]:
    groups = model.kv_heads * model.head_dim
    for matrix in matrices:
        if matrix.name == "qkv":
            widths = {"query": matrix.outputs - 2 * groups, "key": groups, "value": groups}
        elif matrix.name.endswith("_up") and model.gated_mlp and not matrix.name.startswith(("query", "kv")):
            block = matrix.name.removesuffix("_up")
            widths = {f"{block}_gate": matrix.outputs // 2, f"{block}_up": matrix.outputs // 2}
        else:
            widths = {matrix.name: matrix.outputs}
        for name, outputs in widths.items():
            yield replace(matrix, name=name, outputs=outputs)
