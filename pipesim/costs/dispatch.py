"""Seconds to send tokens to their experts, or back: every copy for itself, or one copy per node and GPU.

An all-to-all moves ``top_k`` copies of each token, and their probabilities in a message of their own
(NVIDIA/Megatron-LM megatron/core/transformer/moe/token_dispatcher.py). Deduplicated dispatch (DeepEP, DeepSeek-V3,
arXiv 2412.19437, section 3.2.2) sends a token once to every node that holds any of its experts, over the network, and
from there once to every GPU that does, over NVLink; both go on at the same time, and combining reverses it. Routing is
taken to be uniform over the experts of the nodes that a token may visit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipesim.costs.collectives import Collectives
from pipesim.hardware import Group
from pipesim.workload.model import Experts

_PROBABILITY_BYTES = 4


@dataclass(frozen=True)
class Visits:
    """How many nodes, and how many GPUs, an average token visits, its own included."""

    nodes: float
    gpus: float


def visits(moe: Experts, group: Group) -> Visits:
    """Of a token whose experts are spread over an expert-parallel group; at most ``moe.node_limit`` nodes each."""
    nodes = min(moe.node_limit or group.nodes, group.nodes)
    share = nodes / group.nodes
    experts = max(round(moe.experts * share), moe.top_k)
    return Visits(_distinct(experts, nodes, moe.top_k), _distinct(experts, group.size * share, moe.top_k))


def _distinct(experts: int, places: float, chosen: int) -> float:
    """Expected number of places among which ``chosen`` of ``experts`` lie, each place with as many of them."""
    elsewhere = experts - experts / places
    if elsewhere < chosen:
        return places
    missed = math.exp(sum(math.log1p(-(experts - elsewhere) / (experts - i)) for i in range(chosen)))
    return places * (1.0 - missed)


def all_to_all_seconds(collectives: Collectives, moe: Experts, group: Group, tokens_bytes: float) -> float:
    """One dispatch of ``tokens_bytes`` that each GPU holds, all copies of all tokens."""
    return collectives.seconds("all_to_all", tokens_bytes * moe.top_k, group)


def probabilities_seconds(collectives: Collectives, moe: Experts, group: Group, tokens: float) -> float:
    """Sending the fp32 probabilities of all copies of ``tokens`` after them."""
    return collectives.seconds("all_to_all", _PROBABILITY_BYTES * tokens * moe.top_k, group)


def deduplicated_seconds(collectives: Collectives, moe: Experts, group: Group, tokens_bytes: float) -> float:
    """One dispatch of ``tokens_bytes`` that each GPU holds, at most one copy per node and per GPU."""
    if group.size == 1 or tokens_bytes <= 0:
        return 0.0
    visited = visits(moe, group)
    inside_node = Group(group.per_node, 1, group.per_node)
    inside = collectives.seconds("all_to_all", tokens_bytes * visited.gpus, inside_node)
    if group.nodes == 1:
        return inside
    cluster = collectives.cluster
    remote = tokens_bytes * visited.nodes * (group.nodes - 1) / group.nodes
    outside = remote / cluster.network_bandwidth(cluster.gpus_per_node)
    return cluster.inter_node.latency_s + max(inside, outside)


_DISPATCHES = {"all-to-all": all_to_all_seconds, "deduplicated": deduplicated_seconds}


def round_trip_seconds(
    dispatch: str, collectives: Collectives, moe: Experts, group: Group, tokens: float, token_bytes: float
) -> float:
    """The ``tokens`` of each GPU to their experts and back; ``dispatch`` as in `Training`."""
    seconds = 2 * _DISPATCHES[dispatch](collectives, moe, group, tokens * token_bytes)
    if dispatch == "all-to-all":
        seconds += probabilities_seconds(collectives, moe, group, tokens)
    return seconds
