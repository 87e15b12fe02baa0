"""Layers, embedding and head of a model on one GPU, measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pipesim.calibration.attention import KeptContext
from pipesim.calibration.device import Device
from pipesim.calibration.kernels import core_works
from pipesim.calibration.layer import Head, Layer
from pipesim.calibration.local import Local
from pipesim.calibration.measure import forward_alone, phases, sample
from pipesim.calibration.pieces import Block, Entry
from pipesim.calibration.samples import Samples


@dataclass(frozen=True)
class Measured:
    """Times by phase, what a forward leaves in use, and what recomputation brings back; None where not measured."""

    times: Mapping[str, Samples]
    kept_bytes: int | None
    recomputed_bytes: int | None = None


def measure_layer(local: Local, mixture: bool, device: Device, repeats: int) -> Measured:
    """One layer with its recomputation. What is kept when norms or all but the attention core are repeated is not
    measured: PyTorch has no way to drop the inputs of products and of the core, and nothing else.
    """
    layer = Layer(local, mixture)
    block = Block(local, layer)
    times = phases(device, block, repeats)
    kept = device.kept_bytes(block.leave)
    how = local.training.recompute
    if how == "full":
        again = times | {"forward": forward_alone(device, block, repeats), "recompute": times["forward"]}
        layer.repeat = True
        return _recomputed(device, block, again, kept)
    if how == "selective" and not local.training.flash_attention:
        core = sample(device, core_works(local, False, device.cache_bytes), repeats)
        layer.attention.repeat = True
        return _recomputed(device, block, times | {"recompute": core}, kept)
    if how == "without-attention":
        alone = forward_alone(device, block, repeats)
        layer.attention.core = KeptContext(layer.attention.core, layer.attention.heads)
        return Measured(times | {"forward": alone, "recompute": sample(device, [block.forward], repeats)}, None)
    if how == "pointwise":
        with torch.no_grad():
            return Measured(times | {"recompute": sample(device, [layer.pointwise()], repeats)}, None)
    return Measured(times, kept)


def _recomputed(device: Device, block: Block, times: Mapping[str, Samples], everything: int) -> Measured:
    """With the sizes of a layer that has been told what to repeat."""
    kept = device.kept_bytes(block.leave)
    return Measured(times, kept, everything - kept)


def measure_embedding(local: Local, device: Device, repeats: int) -> Measured:
    """The embedding; tokens have no gradient."""
    entry = Entry(local)
    times = phases(device, entry, repeats)
    del times["input_grad"]
    return Measured(times, device.kept_bytes(entry.leave))


def measure_head(local: Local, device: Device, repeats: int) -> Measured:
    """The head with its loss."""
    block = Block(local, Head(local))
    return Measured(phases(device, block, repeats), device.kept_bytes(block.leave))
