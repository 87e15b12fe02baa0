"""Weights, gradients and optimizer state of a stage: their bytes, and the seconds to reduce, gather,
update."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from pipesim.costs.collectives import CROWDING, Collectives, Operation
from pipesim.costs.elementwise import Traffic, elementwise_seconds, kernel
from pipesim.costs.fsdp import gather_bytes, reduce_bytes
from pipesim.costs.optimizer import update_bytes
from pipesim.costs.stages import Stage
from pipesim.hardware import Cluster, Group, Layout
from pipesim.workload.memory import StateBytes, state_bytes
from pipesim.workload.parameters import Count
from pipesim.workload.shard import Shard
from pipesim.workload.training import Training

Call = tuple[Operation, float, Group]
"""A collective: what, on how many bytes, among whom."""


class StateCosts:
    """Costs of the state of stages under one layout and way of training.

    Dense weights are replicated over data x context (x the pipeline ranks that hold the stage), experts
    over what expert parallelism leaves of that; gradients are reduced over the replicas, and ZeRO shards
    over them.
    """

    def __init__(self, cluster: Cluster, layout: Layout, training: Training) -> None:
        self.gpu, self.layout, self.training = cluster.gpu, layout, training
        self.collectives = Collectives(cluster, training.old_nccl)
        sequence_parallel = training.sequence_parallel and layout.tensor > 1
        self.shard = Shard(layout.tensor, layout.context, layout.expert, sequence_parallel)

    def like(self, held: Stage) -> Hashable:
        """Equal for stages with equal contents whose replicas are placed alike."""
        return held.contents, self._groups(held)

    def resident(self, held: Stage) -> StateBytes:
        """Bytes that stay on one GPU, after ZeRO's sharding."""
        dense, experts = self._parameters(held)
        dense_group, expert_group = self._groups(held)
        return state_bytes(dense, self.training, dense_group.size) + state_bytes(
            experts, self.training, expert_group.size
        )

    def unsharded_bytes(self, held: Stage) -> float:
        """What of a stage is whole while it is worked on: with ZeRO-3 its weights, from ZeRO-2 on its gradients; of
        those that there are pieces of.
        """
        gradients = sum(size for _, size, _ in self._reductions(held)) if self.training.zero >= 2 else 0.0
        return self.gathered_bytes(held) + gradients

    def gathered_bytes(self, held: Stage) -> float:
        """With ZeRO-3, the gathered weights of a stage: of those that there are pieces of."""
        return sum(size for _, size, _ in self._gathers(held)) if self.training.zero == 3 else 0.0

    def layerwise_bytes(self, held: Stage, layers: Sequence[tuple[Count, int]], slots: int) -> float:
        """As `unsharded_bytes` where a stage is worked through layer by layer: ``slots`` layers, and the vocabulary's
        weights throughout, as PyTorch's FSDP wraps them. ``layers``: parameters and how many of such layers there are.
        """
        each = [(replace(held, parameters=count), number) for count, number in layers]
        inside = sum(self.gathered_bytes(layer) * number for layer, number in each)
        largest = max((self.unsharded_bytes(layer) for layer, _ in each), default=0.0)
        return slots * largest + self.gathered_bytes(held) - inside

    def reduce_seconds(self, held: Stage) -> float:
        """Adding up the gradients over replicas: all-reduce, or reduce-scatter where ZeRO shards."""
        return sum(self.collectives.seconds(*each) for each in self._reductions(held))

    def unshard_seconds(self, held: Stage) -> float:
        """Gathering the weights that ZeRO updated (stages 1 and 2) or keeps (3) in pieces."""
        return sum(self.collectives.seconds(*each) for each in self._gathers(held))

    def sharding_seconds(self, held: Stage) -> tuple[float, float]:
        """By how much full sharding slows down the forward and the backward of one micro-batch, with one stage per
        rank, where it goes on most of the time: by communicating beside computing, and by copies (`fsdp.py`).
        """
        training, layout = self.training, self.layout
        if training.zero < 3 or layout.pipeline > 1:
            return 0.0, 0.0
        alone = all(group.per_node == 1 for group in self._groups(held))
        price = CROWDING["one on a node" if alone else "several on a node"]
        gathering = price * self.unshard_seconds(held) + self._copied(held, gather_bytes(training))
        microbatches = max(training.global_batch // (training.micro_batch * layout.data), 1)
        reducing = price * self.reduce_seconds(held) / microbatches + self._copied(held, reduce_bytes(training))
        return gathering, gathering + reducing

    def leaves_node(self, held: Stage) -> bool:
        """Whether any of the stage's replicas are on different nodes."""
        return any(group.nodes > 1 for group in self._groups(held))

    def reduce_share(self, held: Stage, crossing: bool) -> float:
        """How much of its links (between nodes, or inside one) the reduction keeps busy, 0..1."""
        return self._busy_share(self._reductions(held), crossing)

    def unshard_share(self, held: Stage, crossing: bool) -> float:
        """How much of its links the gathering of weights keeps busy, 0..1."""
        return self._busy_share(self._gathers(held), crossing)

    def optimizer_seconds(self, held: Stage) -> float:
        """One update of this GPU's share, bound by memory, and passes over gradients that are not divided yet."""
        traffic = kernel(update_bytes(self.training) * self._updated(held))
        return elementwise_seconds(traffic + self._whole_gradient_passes(held), self.gpu)

    def _whole_gradient_passes(self, held: Stage) -> Traffic:
        """Passes over the gradients before ZeRO divides them: cleared, and with replicas scaled by their number
        before they are added up (megatron/core/distributed/param_and_grad_buffer.py). PyTorch's FSDP has none of them.
        """
        if self.training.fully_sharded:
            return Traffic()
        dense, experts = self._parameters(held)
        replicated = self._groups(held)[0].size > 1
        sharded = self._updated(held) if self.training.zero >= 2 else dense + experts
        return kernel((3 if replicated else 1) * self.training.gradient_bytes * sharded)

    def reconstruct_seconds(self, held: Stage) -> float:
        """Older weights from the newest and a moving average of gradients: two arrays read, one written."""
        weights = sum(self._parameters(held)) * self.training.element_bytes
        return elementwise_seconds(kernel(3 * weights), self.gpu)

    def pair_reduce_seconds(self, parameters: float, crossing: bool) -> float:
        """All-reduce between two pipeline ranks that share a matrix (tied embeddings)."""
        group = Group(2, 2, 1) if crossing else Group(2, 1, 2)
        return float(self.collectives.seconds("all_reduce", parameters * self.training.gradient_bytes, group))

    def _copied(self, held: Stage, bytes_each: float) -> float:
        """Seconds of copies of the stage's whole parameters or gradients, where these are in pieces elsewhere."""
        pairs = zip(self._parameters(held), self._groups(held), strict=True)
        whole = sum(parameters for parameters, group in pairs if group.size > 1)
        return elementwise_seconds(kernel(bytes_each * whole), self.gpu) if bytes_each else 0.0

    def _updated(self, held: Stage) -> float:
        dense, experts = self._parameters(held)
        if not self.training.zero:
            return dense + experts
        dense_group, expert_group = self._groups(held)
        return dense / dense_group.size + experts / expert_group.size

    def _parameters(self, held: Stage) -> tuple[float, float]:
        """Parameters per GPU: all but the routed experts, and those."""
        count, tensor, expert = held.parameters, self.shard.tensor, self.shard.expert
        experts = Count(experts=count.experts).per_gpu(tensor, expert)
        return count.per_gpu(tensor, expert) - experts, experts

    def _groups(self, held: Stage) -> tuple[Group, Group]:
        dense = self.layout.replica_group(held.ranks)
        if self.shard.expert == 1:
            return dense, dense
        expert, ranks = self.layout.group("expert_data"), len(held.ranks)
        return dense, Group(expert.size * ranks, expert.nodes, expert.per_node * ranks)

    def _reductions(self, held: Stage) -> list[Call]:
        operation: Operation = "reduce_scatter" if self.training.zero else "all_reduce"
        return self._over_replicas(operation, held, self.training.gradient_bytes)

    def _gathers(self, held: Stage) -> list[Call]:
        return self._over_replicas("all_gather", held, self.training.element_bytes) if self.training.zero else []

    def _over_replicas(self, operation: Operation, held: Stage, element_bytes: int) -> list[Call]:
        """Collectives, one after the other: of dense weights and of experts, where there are any."""
        pairs = zip(self._parameters(held), self._groups(held), strict=True)
        return [
            (operation, parameters * element_bytes, group)
            for parameters, group in pairs
            if parameters and group.size > 1
        ]

    def _busy_share(self, calls: Sequence[Call], crossing: bool) -> float:
        total = sum(self.collectives.seconds(*each) for each in calls)
        busy = sum(self.collectives.busy_seconds(*each) for each in calls if (each[2].nodes > 1) == crossing)
        return busy / total if total else 0.0
