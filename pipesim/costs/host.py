"""Copies of activations between a GPU and host memory: how long they take, and which ranks share a PCIe switch.

GPUs of one rank that share a switch copy at the same time and in the same direction, so each gets its part of the
link. Different ranks take turns in each direction (the topology-aware shift of PipeOffload, arXiv 2503.01328,
section 4.2); while one of them copies out and another in, both get what the link carries in duplex.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import Bytes, HostCopies
from pipesim.hardware import Cluster, Layout


def host_copies(cluster: Cluster, layout: Layout, activations: Bytes) -> HostCopies:
    """Copies of every stage's ``activations`` (S,), bytes of one GPU for one micro-batch."""
    link, crowd = cluster.host_link, _gpus_by_switch(layout, cluster.gpus_per_switch)
    switch = _connected(crowd > 0)
    own = int(crowd.max(initial=1))
    shared = len(np.unique(switch)) < layout.pipeline
    rate = link.both_ways if shared else link.bandwidth
    seconds = np.where(activations > 0, link.latency_s + activations * own / rate, 0.0)
    return HostCopies(
        offload_s=seconds,
        reload_s=seconds,
        switch=switch,
        alone=rate / link.bandwidth,
        gpus=_gpus_by_switch(layout, layout.gpus_per_node),
        memory_bytes=cluster.host_memory_bytes,
    )


def offload_ratio(hidden: int, sequence: int, compute_flops: float, host_bandwidth: float) -> float:
    """k = T_o / T_c of a GPT layer that keeps 20 b s h bytes: a round trip to the host over forward and backward.

    ``compute_flops``: achieved FLOP/s; ``host_bandwidth``: achieved bytes/s in each direction. Source: arXiv
    2503.01328, Equation 1, which counts 12 b s h (6 h + s) FLOPs.
    """
    return 10 / (3 * (6 * hidden + sequence)) * compute_flops / host_bandwidth


def _gpus_by_switch(layout: Layout, per_switch: int) -> NDArray[np.int64]:
    """How many GPUs of each rank, in all replicas, every group of ``per_switch`` neighbours holds; shape (N, P)."""
    of_rank = layout.gpus().reshape(layout.pipeline, -1) // per_switch
    counts = np.zeros((int(of_rank.max()) + 1, layout.pipeline), np.int64)
    np.add.at(counts, (of_rank, np.arange(layout.pipeline)[:, None]), 1)
    return counts


def _connected(on_switch: NDArray[np.bool_]) -> NDArray[np.int64]:
    """A number for every rank, equal for ranks that meet on some switch, directly or through others; shape (P,)."""
    group = np.arange(on_switch.shape[1])
    changed = True
    while changed:
        before = group.copy()
        for present in on_switch:
            group[present] = group[present].min()
        changed = bool((group != before).any())
    return group
