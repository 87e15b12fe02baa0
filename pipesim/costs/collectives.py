"""How long collectives take: measured tables inside a node, latency and bandwidth between nodes.

Sizes are the full buffer, as nccl-tests counts: what every GPU holds before a reduce_scatter, all_reduce or
all_to_all and after an all_gather.
"""

from __future__ import annotations

import math
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.collective_tables import in_node_model
from pipesim.hardware import Cluster, Group

Operation = Literal["all_reduce", "reduce_scatter", "all_gather", "all_to_all"]
Sizes = NDArray[np.float64]

OPERATIONS: tuple[Operation, ...] = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all")

# Each further step of a ring or tree between nodes: NCCL's own estimate for its Simple protocol, which large
# messages use (NVIDIA/nccl src/graph/tuning.cc, network hop of ring and tree).
_NETWORK_HOP_S = 14e-6
# A tree reaches this share of the network's bandwidth (same file).
_TREE_EFFICIENCY = 0.92
# Each further remote peer of an all-to-all: (621 - 60) us from 8 to 120 remote GPUs on AWS p5 (HuggingFaceTB
# Smol Training Playbook, NCCL all-to-all of 16 and 128 H100).
_REMOTE_PEER_S = 5e-6
# Where `linear` takes its chord: the sizes of activations and gradients.
_LINEAR_BYTES = (2.0**20, 2.0**26)

CROWDING = {"several on a node": 0.15, "one on a node": 0.02}
"""Share of the GPU that a collective beside computing takes from it: so much of what is hidden is paid all the same.
NCCL runs a thread block per ring. Through several GPUs of a node it makes as many rings as NVLink can feed, whether
they leave the node or not (DeepSeek-V3, arXiv 2412.19437, section 3.2.2: 20 of 132 processors); among GPUs on different
nodes as many as their network card can, two to four. The shares are those of calculon-ai/calculon systems."""

OVERLAP_PRICE = CROWDING["several on a node"]
"""What tensor, context and expert parallelism pay."""


def bus_factor(operation: Operation, size: int) -> float:
    """Bytes that each GPU must send per byte of buffer (nccl-tests doc/PERFORMANCE.md)."""
    share = (size - 1) / size
    return 2 * share if operation == "all_reduce" else share


def ring_all_reduce(size_bytes: float, n: int, latency_s: float, bandwidth: float) -> float:
    """Ring all-reduce: 2(n-1) steps of size/n bytes each; n GPUs with links of ``bandwidth`` bytes/s.

    Source: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009.
    """
    return 2 * (n - 1) * (latency_s + size_bytes / n / bandwidth)


def tree_all_reduce(size_bytes: float, n: int, latency_s: float, bandwidth: float) -> float:
    """Binomial tree all-reduce: reduce to a root, broadcast back; 2 ceil(log2 n) steps of the whole buffer.

    Source: Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH",
    2005, section 4.5.
    """
    return 2 * math.ceil(math.log2(n)) * (latency_s + size_bytes / bandwidth)


def halving_all_reduce(size_bytes: float, n: int, latency_s: float, bandwidth: float) -> float:
    """Rabenseifner's all-reduce: reduce-scatter by recursive halving, then all-gather by recursive doubling.

    2 log2 n steps, the same bytes as a ring; n a power of two. What Chimera's performance model assumes.
    Source: Thakur, Rabenseifner and Gropp, 2005, section 4.5.
    """
    return 2 * math.log2(n) * latency_s + 2 * (n - 1) / n * size_bytes / bandwidth


def ring_hop_seconds(cluster: Cluster, group: Group, size_bytes: float, channels: int) -> float:
    """Seconds for every GPU of a group to send ``size_bytes`` to the next one, all at once.

    A group on several nodes leaves each of them by one GPU, as do the other groups of the node; that one sends through
    so many ``channels``.
    """
    if group.nodes == 1:
        return cluster.intra_node.latency_s + size_bytes / cluster.intra_node.bandwidth
    leaving = max(cluster.gpus_per_node // group.per_node, 1)
    return cluster.inter_node.latency_s + size_bytes / cluster.message_bandwidth(leaving, channels)


class Collectives:
    """Collective times on one cluster.

    ``old_nccl``: no trees over two nodes. They swap a buffer where a ring sends it twice, and the ring was taken for
    large ones all the same while NCCL rated every tree between nodes at 35 GB/s (NVIDIA/nccl src/graph/tuning.cc of
    2.6: at most 70 GB/s, halved); it takes the tree now (NVIDIA/nccl issue 946, NVIDIA/nccl-tests issue 196).
    """

    def __init__(self, cluster: Cluster, old_nccl: bool = False) -> None:
        self.cluster, self.old_nccl = cluster, old_nccl
        self._in_node = in_node_model(cluster.intra_node)

    @overload
    def seconds(self, operation: Operation, size_bytes: float, group: Group) -> float: ...
    @overload
    def seconds(self, operation: Operation, size_bytes: Sizes, group: Group) -> Sizes: ...
    def seconds(self, operation: Operation, size_bytes: float | Sizes, group: Group) -> float | Sizes:
        """Seconds for a buffer of ``size_bytes`` (a number or an array) in ``group``; nothing costs nothing.

        Raises ValueError for an unknown operation.
        """
        if operation not in OPERATIONS:
            raise ValueError(f"unknown collective {operation!r}; allowed: {', '.join(OPERATIONS)}")
        sizes = np.asarray(size_bytes, dtype=np.float64)
        if group.size == 1:
            times = np.zeros_like(sizes)
        elif group.nodes == 1:
            times = self._in_node(operation, sizes, group.size)
        else:
            times = self._across_nodes(operation, sizes, group)
        times = np.where(sizes > 0, times, 0.0)
        return times if isinstance(size_bytes, np.ndarray) else float(times)

    def linear(self, operation: Operation, group: Group) -> tuple[float, float]:
        """(latency_s, seconds_per_byte) of the straight line through the times of 1 MiB and 64 MiB."""
        small, large = _LINEAR_BYTES
        low, high = (self.seconds(operation, size, group) for size in _LINEAR_BYTES)
        slope = (high - low) / (large - small)
        return max(low - slope * small, 0.0), slope

    def bus_bandwidth(self, operation: Operation, size_bytes: float, group: Group) -> float:
        """Bytes/s that each GPU sends, nccl-tests' "busbw"."""
        return bus_factor(operation, group.size) * size_bytes / self.seconds(operation, size_bytes, group)

    def busy_seconds(self, operation: Operation, size_bytes: float, group: Group) -> float:
        """Seconds for which a collective needs the bandwidth of its links alone: the GPU's own inside a node, its
        share of the network cards between nodes. The rest is latency, or waiting for slower parts.
        """
        if group.size == 1 or size_bytes <= 0:
            return 0.0
        if group.nodes == 1:
            sent = bus_factor(operation, group.size) * size_bytes
            return min(sent / self.cluster.intra_node.bandwidth, self.seconds(operation, size_bytes, group))
        sizes = np.asarray(size_bytes, dtype=np.float64)
        share = self.cluster.network_bandwidth(self.cluster.gpus_per_node)
        if operation == "all_to_all":
            return float(self._all_to_all(sizes, group, share)[1])
        ring = self._ring(operation, sizes, group, share)
        if operation != "all_reduce":
            return float(ring[1])
        tree, inside = self._tree(sizes, group, share), self._inside(operation, sizes, group)[1]
        faster = ring[0] + max(inside, ring[1]) <= tree[0] + max(inside, tree[1])
        return float(ring[1] if faster else tree[1] * _TREE_EFFICIENCY)

    def _across_nodes(self, operation: Operation, sizes: Sizes, group: Group) -> Sizes:
        """Stages inside the nodes and between them, pipelined: latencies add up, the slower transfer counts.

        Every GPU of a node is taken to communicate at the same time, each in its own group, as in data
        parallelism: it has its share of the node's network cards.
        """
        inside_latency_s, inside = self._inside(operation, sizes, group)
        share = self.cluster.network_bandwidth(self.cluster.gpus_per_node)
        if operation == "all_to_all":
            outside = self._all_to_all(sizes, group, share)
        elif operation == "all_reduce":
            ring, tree = self._ring(operation, sizes, group, share), self._tree(sizes, group, share)
            times = [latency_s + np.maximum(inside, transfer) for latency_s, transfer in (ring, tree)]
            return np.asarray(inside_latency_s + np.minimum(*times))
        else:
            outside = self._ring(operation, sizes, group, share)
        return np.asarray(inside_latency_s + outside[0] + np.maximum(inside, outside[1]))

    def _inside(self, operation: Operation, sizes: Sizes, group: Group) -> tuple[float, Sizes]:
        """Latency and transfer time of the part inside a node."""
        if group.per_node == 1:
            return 0.0, np.zeros_like(sizes)
        # An all-to-all keeps only what goes to GPUs of the same node.
        kept = group.per_node / group.size if operation == "all_to_all" else 1.0
        latency_s = float(self._in_node(operation, np.float64(1.0), group.per_node))
        return latency_s, self._in_node(operation, np.maximum(sizes * kept, 1.0), group.per_node) - latency_s

    def _ring(self, operation: Operation, sizes: Sizes, group: Group, share: float) -> tuple[float, Sizes]:
        """One ring through all GPUs: what a GPU sends leaves the node on all of the group's cards."""
        rounds = 2 if operation == "all_reduce" else 1
        hops = rounds * (group.nodes - 1)
        latency_s = self.cluster.inter_node.latency_s + (hops - 1) * _NETWORK_HOP_S
        return latency_s, bus_factor(operation, group.size) * sizes / (group.per_node * share)

    def _tree(self, sizes: Sizes, group: Group, share: float) -> tuple[float, Sizes]:
        """NCCL's double binary tree: every node sends the buffer twice, except that two nodes may swap it."""
        hops = 2 * math.ceil(math.log2(group.nodes))
        latency_s = self.cluster.inter_node.latency_s + (hops - 1) * _NETWORK_HOP_S
        sent = 1 if group.nodes == 2 and not self.old_nccl else 2
        return latency_s, sent * sizes / (group.per_node * share * _TREE_EFFICIENCY)

    def _all_to_all(self, sizes: Sizes, group: Group, share: float) -> tuple[float, Sizes]:
        """Every GPU sends directly to every GPU of the other nodes."""
        remote = group.size - group.per_node
        latency_s = self.cluster.inter_node.latency_s + max(remote - group.per_node, 0) * _REMOTE_PEER_S
        return latency_s, sizes * remote / group.size / share
