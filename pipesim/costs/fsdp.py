"""What PyTorch's fully sharded data parallelism does besides communicating: bytes that its kernels move per parameter.

- FSDP2 (pytorch/pytorch:torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py) copies gathered weights out of its
  buffer into parameters and gradients, cast to what they are reduced in, into another one, on the stream that computes.
- FSDP1 (torch/distributed/fsdp/_flat_param.py, _runtime_utils.py) computes with views of the gathered buffer. Their
  gradients are put together; the whole is cast, and divided by a part of the number of replicas. That is on a stream of
  its own, but kernels that memory bounds gain nothing from running beside others that fill the GPU.
"""

from __future__ import annotations

from pipesim.workload.training import Training


def gather_bytes(training: Training) -> float:
    """After gathering weights: a copy of them, with FSDP2."""
    return 2.0 * training.element_bytes if training.fsdp == 2 else 0.0


def reduce_bytes(training: Training) -> float:
    """Before reducing gradients."""
    element, reduced = training.element_bytes, training.gradient_bytes
    put_together, cast, divided = 2 * element, element + reduced, 2 * reduced
    return {0: 0.0, 1: float(put_together + cast + divided), 2: float(cast)}[training.fsdp]
