"""Point-to-point transfers between pipeline ranks: which link each hop uses, and what it costs.

A pipeline rank is ``tensor`` x ``context`` GPUs in each of ``data`` replicas. All GPUs of a rank send at the
same time, each to its counterpart, so the GPUs of one node share its network cards. The `Hops` are for
the *full* message, the (micro-batch x sequence / context x hidden) tensor that one context rank hands on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.collectives import Collectives
from pipesim.costs.costs import Hops, Ports
from pipesim.hardware import Cluster, Layout
from pipesim.units import format_rate, format_seconds

Matrix = NDArray[np.bool_]
Rates = NDArray[np.float64]
Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Hop:
    """One hop between pipeline ranks, for people: the link's name and the cost of the full message."""

    sender: int
    receiver: int
    link: str
    latency_s: float
    seconds_per_byte: float


def pipeline_hops(
    cluster: Cluster,
    layout: Layout,
    scatter_gather: bool = True,
    sequence_parallel: bool = False,
    message_bytes: float = 0.0,
    old_nccl: bool = False,
) -> Hops:
    """Links between all pairs of pipeline ranks, arrays of shape (P, P), for messages of about ``message_bytes``.

    How the tensor parallel GPUs of a rank share the message: with ``sequence_parallel`` each holds and sends
    its part; with ``scatter_gather`` each sends a part and the receivers all-gather inside their group, as
    Megatron-LM does on every hop; without either each sends the whole. Source: Narayanan et al. 2021, arXiv
    2104.04473, section 4.1. ``old_nccl``: see `network_channels`. Raises ValueError when layout and cluster have
    different nodes.
    """
    if layout.gpus_per_node != cluster.gpus_per_node:
        found = f"layout has {layout.gpus_per_node} GPUs per node, cluster {cluster.gpus_per_node}"
        raise ValueError(f"layout and cluster differ: {found}")
    crossing = crosses_nodes(layout)
    ports, reached = _network_rates(cluster, layout, network_channels(old_nccl))
    rate = np.where(crossing, reached, cluster.intra_node.bandwidth)
    parts = layout.tensor if scatter_gather or sequence_parallel else 1
    starts = (link.start_s(message_bytes / parts) for link in (cluster.inter_node, cluster.intra_node))
    latency_s = np.where(crossing, *starts)
    gather = (0.0, 0.0)
    if scatter_gather and not sequence_parallel:
        gather = Collectives(cluster).linear("all_gather", layout.group("tensor"))
    send_port, receive_port = _ports(cluster, layout, crossing)
    return Hops(
        latency_s=_without_diagonal(latency_s + gather[0], np.float64(0)),
        seconds_per_byte=_without_diagonal(1 / (parts * rate) + gather[1], np.float64(0)),
        send_port=send_port,
        receive_port=receive_port,
        port_share=np.where(crossing, reached / ports, 1.0),
    )


def network_channels(old_nccl: bool) -> int:
    """NCCL's channels for messages to one GPU of another node, each a block of threads and a proxy's share.

    One up to NCCL 2.11, two from 2.12 (NVIDIA/nccl src/graph/paths.cc, `ncclTopoGetNchannels`); since 2.20 one again
    in communicators of more than 32 or 64 GPUs, which pipelines seldom are.
    """
    return 1 if old_nccl else 2


def crosses_nodes(layout: Layout) -> Matrix:
    """Whether a transfer between two ranks leaves the node in any replica, shape (P, P)."""
    # Placement is linear: a rank's GPUs lie at pipeline * stride + offset. Offsets that differ by whole nodes
    # cross alike, so only their remainders count.
    offsets = np.unique(layout.gpus()[0] % layout.gpus_per_node)
    start = np.arange(layout.pipeline) * layout.strides["pipeline"]
    nodes = (start[:, None] + offsets) // layout.gpus_per_node
    return np.asarray((nodes[:, None, :] != nodes[None, :, :]).any(axis=2))


def hop_table(
    cluster: Cluster,
    layout: Layout,
    scatter_gather: bool = True,
    sequence_parallel: bool = False,
    old_nccl: bool = False,
) -> list[Hop]:
    """The hop from every rank to the next one, and from the last rank to the first (for looped schedules)."""
    hops = pipeline_hops(cluster, layout, scatter_gather, sequence_parallel, old_nccl=old_nccl)
    crossing = crosses_nodes(layout)
    ranks = range(layout.pipeline if layout.pipeline > 1 else 0)
    return [_hop(cluster, hops, crossing, rank, (rank + 1) % layout.pipeline) for rank in ranks]


def describe_hop(hop: Hop) -> str:
    """One line: ``rank 3 -> 4 over infiniband-hdr: 30.0 us + 188 GB/s``."""
    speed = format_rate(1 / hop.seconds_per_byte)
    return f"rank {hop.sender} -> {hop.receiver} over {hop.link}: {format_seconds(hop.latency_s)} + {speed}"


def _hop(cluster: Cluster, hops: Hops, crossing: Matrix, sender: int, receiver: int) -> Hop:
    link = cluster.inter_node if crossing[sender, receiver] else cluster.intra_node
    cost = float(hops.latency_s[sender, receiver]), float(hops.seconds_per_byte[sender, receiver])
    return Hop(sender, receiver, link.name, *cost)


def _network_rates(cluster: Cluster, layout: Layout, channels: int) -> tuple[Rates, Rates]:
    """Bytes/s of each GPU between nodes: what ports carry, and what messages reach; the slower of both ends."""
    counts = _gpus_on_one_node(layout)
    ports = np.array([cluster.network_bandwidth(count) for count in counts])
    reached = np.array([cluster.message_bandwidth(count, channels) for count in counts])
    return np.minimum(ports[:, None], ports[None, :]), np.minimum(reached[:, None], reached[None, :])


def _gpus_on_one_node(layout: Layout) -> list[int]:
    """For each rank, the largest number of its GPUs (in all replicas) that one node holds."""
    nodes = layout.gpus().reshape(layout.pipeline, -1) // layout.gpus_per_node
    return [int(np.unique(row, return_counts=True)[1].max()) for row in nodes]


def rank_ports(cluster: Cluster, layout: Layout, crossing: bool) -> Ports:
    """Sending and receiving port of every rank for traffic that leaves the node or not, shape (P, 2).

    A rank's own NVLink or PCIe port, or the first network card of its GPUs: ranks whose GPUs share a card share
    its port.
    """
    rank = np.arange(layout.pipeline)
    first = 2 * rank
    if crossing:
        node, place = np.divmod(layout.gpus()[:, 0, 0, 0], layout.gpus_per_node)
        cards = node * cluster.nics_per_node + place * cluster.nics_per_node // layout.gpus_per_node
        first = 2 * layout.pipeline + 2 * np.unique(cards, return_inverse=True)[1]
    return np.stack([first, first + 1], axis=1).astype(np.int32)


def collective_part(cluster: Cluster, layout: Layout) -> NDArray[np.float64]:
    """Which part of its network port each rank's collectives may use, 0..1, shape (P,).

    All GPUs of a node take part in collectives at the same time, so each rank has its share of the cards; its
    transfers between ranks have all cards that are nearest to its GPUs.
    """
    share = cluster.network_bandwidth(cluster.gpus_per_node)
    return np.array([share / cluster.network_bandwidth(count) for count in _gpus_on_one_node(layout)])


def _ports(cluster: Cluster, layout: Layout, crossing: Matrix) -> tuple[Ports, Ports]:
    """Port ids of every hop; -1 on the diagonal."""
    inside, outside = (rank_ports(cluster, layout, leaves) for leaves in (False, True))
    send = np.where(crossing, outside[:, None, 0], inside[:, None, 0])
    receive = np.where(crossing, outside[None, :, 1], inside[None, :, 1])
    nothing = np.int32(-1)
    return _without_diagonal(send, nothing), _without_diagonal(receive, nothing)


def _without_diagonal(matrix: NDArray[Number], value: Number) -> NDArray[Number]:
    """``matrix`` with ``value`` where a rank would send to itself."""
    return np.where(np.eye(len(matrix), dtype=bool), value, matrix)
