"""What the ops of one training step cost: plain arrays, whatever model they came from.

Every cost model (unit, profiled, analytic) ends in a `Costs`; everything after it reads nothing else.
A *stage* is one of S pieces of the model in model order, a *rank* one of P pipeline positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]
Bytes = NDArray[np.float64]
Ports = NDArray[np.int32]
Indices = NDArray[np.int32] | NDArray[np.int64]
Number = TypeVar("Number", np.int64, np.float64)

SLOTS = 2
"""Buffers of a rank for whole weights (and gradients) of sharded stages: one in use, one prefetched (or draining)."""


@dataclass(frozen=True)
class Hops:
    """Point-to-point links between ranks, each array of shape (P, P), indexed [sender, receiver].

    A transfer takes ``latency_s + bytes * seconds_per_byte``. Ports name what a transfer occupies on its way
    under the ``fifo`` and ``fair`` networks (a NIC or an NVLink port); -1 means nothing. ``port_share``, 0..1, is how
    much of them it keeps busy when it is alone.
    """

    latency_s: Seconds
    seconds_per_byte: Seconds
    send_port: Ports
    receive_port: Ports
    port_share: NDArray[np.float64]

    @classmethod
    def uniform(cls, ranks: int, latency_s: float, seconds_per_byte: float = 0.0) -> Hops:
        """The same link between any two ranks; each rank has one sending and one receiving port."""
        shape = (ranks, ranks)
        own = np.arange(ranks, dtype=np.int32)
        return cls(
            latency_s=np.broadcast_to(np.float64(latency_s), shape),
            seconds_per_byte=np.broadcast_to(np.float64(seconds_per_byte), shape),
            send_port=np.broadcast_to(own[:, None], shape),
            receive_port=np.broadcast_to(own[None, :] + np.int32(ranks), shape),
            port_share=np.broadcast_to(np.float64(1), shape),
        )


@dataclass(frozen=True)
class StageTimes:
    """Seconds per stage, arrays of shape (S,), for one micro-batch on one rank (its tensor-parallel shard).

    ``input_grad`` and ``weight_grad`` are the two halves of a full backward. ``recompute`` is the extra
    forward work before a backward. The ``*_collective`` entries say how much of a duration is tensor,
    context or expert parallel communication inside the op; they are included in it, not added to it.
    ``overlap`` is what a full backward takes less than its two halves, because communication of the first
    runs beside products of the second; ``overlap_collective`` the part of it that was communication.
    ``reduce_grad`` is the stage's gradient all-reduce or reduce-scatter over data-parallel replicas,
    ``unshard`` the all-gather of its weights, ``optimizer`` its parameter update, ``reconstruct`` the recovery of
    older weights from a moving average of gradients; all once per use.
    """

    forward: Seconds
    input_grad: Seconds
    weight_grad: Seconds
    recompute: Seconds
    optimizer: Seconds
    reduce_grad: Seconds
    unshard: Seconds
    forward_collective: Seconds
    input_grad_collective: Seconds
    weight_grad_collective: Seconds
    recompute_collective: Seconds
    overlap: Seconds
    overlap_collective: Seconds
    reconstruct: Seconds

    @classmethod
    def simple(cls, forward: Seconds, input_grad: Seconds, weight_grad: Seconds, **other: Seconds) -> StageTimes:
        """The three compute times; everything not named is zero."""
        zero = np.zeros_like(forward, dtype=np.float64)
        rest = [f.name for f in fields(cls)][3:]
        return cls(forward, input_grad, weight_grad, **{name: other.get(name, zero) for name in rest})


@dataclass(frozen=True)
class StageSizes:
    """Bytes per stage on one rank, arrays of shape (S,).

    ``activations`` is what F leaves behind until the backward ends (after recomputation's savings);
    ``weight_grad_activations`` the part of it that W still needs after I; ``recomputed`` what recomputation
    brings back while one micro-batch's backward runs; ``message`` the activations sent to the next stage
    (its gradient has the same size). ``weights``, ``gradients`` and ``optimizer`` are resident, already
    divided by ZeRO's sharding; ``unsharded`` is what of a stage is whole while it is worked on (weights with ZeRO-3,
    gradients from ZeRO-2 on, else zero), ``layerwise`` the same where a rank works through its only stage layer by
    layer.
    """

    weights: Bytes
    gradients: Bytes
    optimizer: Bytes
    unsharded: Bytes
    layerwise: Bytes
    activations: Bytes
    weight_grad_activations: Bytes
    recomputed: Bytes
    message: Bytes


@dataclass(frozen=True)
class Sharing:
    """Ports that data-parallel collectives use under the ``fifo`` and ``fair`` networks.

    ``ports`` of every rank, shape (P, 2), numbered as in `Hops`. ``reduce`` and ``unshard``: how much of those ports a
    stage's collectives keep busy when they run alone, 0..1, shape (S,).
    """

    ports: Ports
    reduce: NDArray[np.float64]
    unshard: NDArray[np.float64]


@dataclass(frozen=True)
class HostCopies:
    """Copies of activations to host memory and back, per stage of shape (S,), as one GPU of a rank sees them.

    ``offload_s`` and ``reload_s``: seconds for one micro-batch's activations while a neighbour copies the other way;
    times ``alone`` while nobody does. ``switch`` (P,): ranks of equal numbers share a PCIe switch, on which at most
    one copies in each direction at a time. ``gpus`` (N, P): GPUs of each rank on each node; ``memory_bytes``: host
    memory of a node, None where it is not limited.
    """

    offload_s: Seconds
    reload_s: Seconds
    switch: NDArray[np.int64]
    alone: float = 1.0
    gpus: NDArray[np.int64] | None = None
    memory_bytes: float | None = None

    @classmethod
    def unshared(cls, round_trip_s: Seconds, ranks: int) -> HostCopies:
        """Every rank with a link of its own, half of the round trip each way."""
        return cls(round_trip_s / 2, round_trip_s / 2, np.arange(ranks))


@dataclass(frozen=True)
class Costs:
    """Everything the lowering needs to price one step.

    ``pair_factor``: an overlapped pair of ops takes this times the sum of the two durations.
    ``gradient_buckets``: buckets in which a stage's gradients are reduced, shape (S,); one each when None.
    ``sharing``: where data-parallel collectives meet other traffic; nowhere when None.
    ``buffers_bytes``: fixed bytes on every rank (communication buffers, CUDA context), shape (P,); ``fragmentation``:
    share of all that a rank holds at its peak that the allocator reserves besides.
    ``capacity_bytes``: memory of one GPU, or None where no hardware is in sight.
    ``host``: copies of activations to host memory; they are free when None.
    ``variants``: costs of each micro-batch where these are not all alike; everything else here is then their mean.
    """

    times: StageTimes
    sizes: StageSizes
    hops: Hops
    buffers_bytes: Bytes
    capacity_bytes: float | None = None
    pair_factor: float = 1.0
    gradient_buckets: NDArray[np.int64] | None = None
    sharing: Sharing | None = None
    host: HostCopies | None = None
    variants: Variants | None = None
    fragmentation: float = 0.0

    @property
    def stages(self) -> int:
        """Number of stages S."""
        return int(self.times.forward.shape[0])

    @property
    def buckets(self) -> NDArray[np.int64]:
        """Gradient buckets per stage, shape (S,)."""
        return self.gradient_buckets if self.gradient_buckets is not None else np.ones(self.stages, np.int64)

    def at(self, values: Callable[[Costs], NDArray[Number]], stage: Indices, microbatch: Indices) -> NDArray[Number]:
        """What some stages have for some micro-batches, both (n,); ``values`` takes one per stage, (S,), from costs."""
        if self.variants is None:
            return values(self)[stage]
        return self.variants.rows(values)[self.variants.of[microbatch], stage]

    def changed(self, change: Callable[[Costs], Costs]) -> Costs:
        """The same change made to these costs and to those of every variant."""
        made = change(self)
        if self.variants is None:
            return made
        return replace(made, variants=replace(self.variants, costs=tuple(map(change, self.variants.costs))))


@dataclass(frozen=True)
class Variants:
    """Micro-batches that are not all alike, as sequences of unequal lengths make them.

    ``costs`` (K): what a step of nothing but one kind of micro-batch would cost; they differ only in what belongs to
    micro-batches. ``of`` (M,): which of them each micro-batch is.
    """

    costs: tuple[Costs, ...]
    of: NDArray[np.int64]

    def rows(self, values: Callable[[Costs], NDArray[Number]]) -> NDArray[Number]:
        """An array taken from the costs of every variant, one after the other along a new first axis."""
        return np.stack([values(each) for each in self.costs])
