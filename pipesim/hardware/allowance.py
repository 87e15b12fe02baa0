"""GPU memory that no tensor takes: CUDA's own, NCCL's, and what the caching allocator cannot use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Allowance:
    """``context_bytes``: the CUDA context with its loaded kernels; an estimate, it varies with driver and libraries
    between 0.3 and 0.8 GB. ``nccl_bytes``: NCCL's buffers, 342-392 MB (ai-dynamo/aiconfigurator, system files).
    ``fragmentation``: memory that PyTorch's allocator reserves without using it, as a share of all that is held. In 43
    measured Megatron-LM runs on B200 (MooreThreads/SimuMax docs/b200) it is 2.8 to 9.3 %, median 4.0 %, with memory to
    spare; with none the allocator gives back what it caches before it fails, so the default is near their least. Close
    to 0 with `expandable_segments`.
    """

    context_bytes: float = 0.5e9
    nccl_bytes: float = 0.4e9
    fragmentation: float = 0.03

    def outside_bytes(self, gpus: int) -> float:
        """What lies outside the allocator, in a job of so many GPUs."""
        return self.context_bytes + (self.nccl_bytes if gpus > 1 else 0.0)
