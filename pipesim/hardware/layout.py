"""Which GPU does what: the placement of pipeline, data, context and tensor parallel ranks on nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipesim.errors import ConfigError, Problem

Ids = NDArray[np.int64]
GroupKind = Literal["tensor", "context", "data", "pipeline", "data_context", "expert", "expert_data"]

_ABBREVIATIONS = {"tp": "tensor", "cp": "context", "dp": "data", "pp": "pipeline"}
_AXES = ("pipeline", "data", "context", "tensor")


@dataclass(frozen=True)
class Group:
    """A communicator: ``size`` GPUs on ``nodes`` nodes, at least ``per_node`` of them on each."""

    size: int
    nodes: int
    per_node: int


@dataclass(frozen=True)
class Layout:
    """Placement of all parallel ranks on GPUs 0, 1, 2, ..., of which every ``gpus_per_node`` make a node.

    ``order`` names the dimensions from the innermost (neighbouring GPUs) to the outermost, as in Megatron-LM
    (megatron/core/parallel_state.py, RankGenerator), whose default this is. Expert parallel groups take ``expert``
    neighbours along the tensor, context and data dimensions (an expert tensor-parallel size of 1). One *pipeline
    rank* is the ``tensor`` x ``context`` GPUs that share its position, in each of ``data`` replicas.

    Raises ConfigError for sizes below 1, a bad order, and ``expert`` not dividing ``data`` x ``context`` x ``tensor``.
    """

    pipeline: int
    tensor: int = 1
    data: int = 1
    context: int = 1
    expert: int = 1
    gpus_per_node: int = 8
    order: str = "tp-cp-dp-pp"

    def __post_init__(self) -> None:
        problems = _size_problems(self) + _order_problems(self.order)
        if not problems and self.data * self.context * self.tensor % self.expert:
            allowed = f"a divisor of data x context x tensor = {self.data * self.context * self.tensor}"
            problems.append(Problem("parallelism.expert", "does not fit", str(self.expert), allowed))
        if problems:
            raise ConfigError(problems)

    @property
    def world_size(self) -> int:
        """GPUs in total."""
        return self.pipeline * self.tensor * self.data * self.context

    @property
    def nodes(self) -> int:
        """Nodes in use, the last one perhaps in part."""
        return math.ceil(self.world_size / self.gpus_per_node)

    @property
    def strides(self) -> dict[str, int]:
        """How many GPUs apart neighbours along each dimension are, innermost dimension first."""
        strides, step = {}, 1
        for name in self.dimensions:
            strides[name] = step
            step *= int(getattr(self, name))
        return strides

    @property
    def dimensions(self) -> list[str]:
        """Dimension names, innermost first."""
        return [_ABBREVIATIONS[part] for part in self.order.split("-") if part != "ep"]

    def gpu(self, *, pipeline: int = 0, data: int = 0, context: int = 0, tensor: int = 0) -> int:
        """The GPU at these coordinates. Raises ValueError when one is outside its dimension."""
        position = {"pipeline": pipeline, "data": data, "context": context, "tensor": tensor}
        for name, value in position.items():
            if not 0 <= value < getattr(self, name):
                raise ValueError(f"{name} = {value} is outside 0..{getattr(self, name) - 1}")
        return sum(self.strides[name] * value for name, value in position.items())

    def node_of(self, gpu: int) -> int:
        """The node that holds a GPU."""
        return gpu // self.gpus_per_node

    def gpus(self) -> Ids:
        """All GPUs, shape (pipeline, data, context, tensor)."""
        ids = np.zeros((1, 1, 1, 1), dtype=np.int64)
        for axis, name in enumerate(_AXES):
            along = np.arange(getattr(self, name), dtype=np.int64) * self.strides[name]
            ids = ids + along.reshape([-1 if other == axis else 1 for other in range(4)])
        return ids

    def members(self, kind: GroupKind) -> Ids:
        """All groups of one kind, one per row, members in order of their position in the group."""
        if kind in ("expert", "expert_data"):
            return self._expert_members(kind)
        axes = ("context", "data") if kind == "data_context" else (kind,)
        return _rows(self.gpus(), [_AXES.index(name) for name in self._outermost_first(axes)])

    def group(self, kind: GroupKind) -> Group:
        """The worst placed group of a kind: on the most nodes, then with the fewest members on one of them.

        Kinds: ``tensor``, ``context``, ``data``, ``pipeline``; ``data_context`` (the replicas of a dense
        weight, which gradients are reduced over); ``expert`` and ``expert_data`` (the replicas of an expert).
        """
        return _worst_group(self, kind)

    def replica_group(self, ranks: Sequence[int]) -> Group:
        """All copies of a dense weight that lives on each of these pipeline ranks: ranks x data x context.

        What bidirectional schedules reduce gradients over: a stage of Chimera lives on two pipeline ranks.
        """
        return _replica_group(self, tuple(sorted(set(ranks))))

    def _outermost_first(self, names: Sequence[str]) -> list[str]:
        return sorted(names, key=lambda name: -self.dimensions.index(name))

    def _expert_members(self, kind: GroupKind) -> Ids:
        axes = [_AXES.index(name) for name in self._outermost_first(("data", "context", "tensor"))]
        replicas = _rows(self.gpus(), axes)
        replicas = replicas.reshape(len(replicas), -1, self.expert)
        if kind == "expert_data":
            replicas = replicas.swapaxes(1, 2)
        return np.ascontiguousarray(replicas).reshape(-1, replicas.shape[2])


def _rows(ids: Ids, axes: Sequence[int]) -> Ids:
    """``ids`` with one row per group along ``axes``, the last of them varying fastest."""
    rest = [axis for axis in range(ids.ndim) if axis not in axes]
    size = math.prod(ids.shape[axis] for axis in axes)
    return ids.transpose([*rest, *axes]).reshape(-1, size)


@lru_cache(maxsize=4096)
def _worst_group(layout: Layout, kind: GroupKind) -> Group:
    return worst(layout.members(kind) // layout.gpus_per_node)


@lru_cache(maxsize=4096)
def _replica_group(layout: Layout, ranks: tuple[int, ...]) -> Group:
    return worst(_rows(layout.gpus()[list(ranks)], (0, 1, 2)) // layout.gpus_per_node)


def worst(nodes: Ids) -> Group:
    """The worst placed of the groups whose members' nodes are the rows of ``nodes``, shape (groups, size)."""
    groups, size = nodes.shape
    keys, counts = np.unique(np.arange(groups)[:, None] * (nodes.max() + 1) + nodes, return_counts=True)
    first = np.flatnonzero(np.diff(keys // (nodes.max() + 1), prepend=-1))
    node_counts, fewest = np.diff(first, append=len(keys)), np.minimum.reduceat(counts, first)
    row = np.lexsort((fewest, -node_counts))[0]
    return Group(size, int(node_counts[row]), int(fewest[row]))


def _size_problems(layout: Layout) -> list[Problem]:
    problems = []
    for name in ("pipeline", "tensor", "data", "context", "expert", "gpus_per_node"):
        value = getattr(layout, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            path = "cluster.gpus_per_node" if name == "gpus_per_node" else f"parallelism.{name}"
            problems.append(Problem(path, "must be a whole number of at least 1", repr(value)))
    return problems


def _order_problems(order: object) -> list[Problem]:
    parts = [part for part in order.split("-") if part != "ep"] if isinstance(order, str) else []
    if sorted(parts) == sorted(_ABBREVIATIONS):
        return []
    allowed = "tp, cp, dp and pp, each once, joined by '-', innermost first"
    return [Problem("parallelism.order", "not an order of the dimensions", repr(order), allowed, "tp-cp-dp-pp")]
