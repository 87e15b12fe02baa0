"""Which link every hop of the pipeline and every group of GPUs uses, as plain data for the result."""

from __future__ import annotations

from typing import Any, get_args

from pipesim.costs.links import hop_table
from pipesim.hardware.cluster import Cluster
from pipesim.hardware.layout import Group, GroupKind, Layout

_OUTSIDE = ("pipeline",)
"""Pipeline ranks exchange messages, hop by hop, and make no collective group."""

_EXPERT = ("expert", "expert_data")
"""Groups that only experts spread over several GPUs have."""


def links_used(
    cluster: Cluster, layout: Layout, scatter_gather: bool, sequence_parallel: bool, old_nccl: bool
) -> dict[str, Any]:
    """``hops``: from every pipeline rank to the next and back to the first, the link, its latency and bandwidth.
    ``groups``: per kind of parallelism its size, how many nodes the worst placed group spans, and the slowest
    link on its way. Groups of one GPU are left out, and groups of experts where these are not spread.
    """
    hops = hop_table(cluster, layout, scatter_gather, sequence_parallel, old_nccl)
    absent = _OUTSIDE if layout.expert > 1 else (*_OUTSIDE, *_EXPERT)
    kinds = [kind for kind in get_args(GroupKind) if kind not in absent]
    groups = {kind: group for kind in kinds if (group := layout.group(kind)).size > 1}
    return {
        "hops": [
            {
                "from": hop.sender,
                "to": hop.receiver,
                "link": hop.link,
                "latency_s": hop.latency_s,
                "bandwidth_bytes_per_s": 1.0 / hop.seconds_per_byte if hop.seconds_per_byte else None,
            }
            for hop in hops
        ],
        "groups": {kind: _group(cluster, group) for kind, group in groups.items()},
    }


def _group(cluster: Cluster, group: Group) -> dict[str, Any]:
    link = cluster.inter_node if group.nodes > 1 else cluster.intra_node
    return {"size": group.size, "nodes": group.nodes, "link": link.name}
