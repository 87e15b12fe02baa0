"""What a calibration found: times and sizes of a model's pieces and kernels on one device, and what they are for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipesim.calibration.samples import WIDE, Samples
from pipesim.costs.elementwise import Traffic
from pipesim.hardware import GPU
from pipesim.study.gpu_fit import GpuFit, MeasuredProduct, fit_gpu
from pipesim.workload.model import Model
from pipesim.workload.training import Training

_PHASES = ("forward", "input_grad", "weight_grad", "recompute")

LAYER, MIXTURE, EMBEDDING, HEAD = "layer", "mixture", "embedding", "head"


@dataclass(frozen=True, eq=False)
class Part:
    """A layer, the embedding or the head, for one micro-batch: ``times`` by phase, without communication.

    ``kept_bytes``: what the forward leaves for the backward; ``recomputed_bytes``: what recomputation brings back;
    None where that is not measured. ``predicted_s`` and ``predicted_bytes``: the same from the config's GPU.
    """

    name: str
    times: Mapping[str, Samples]
    kept_bytes: int | None
    recomputed_bytes: int | None
    predicted_s: Mapping[str, float]
    predicted_bytes: float


@dataclass(frozen=True, eq=False)
class Kernel:
    """A matrix product (``sizes`` m, n, k, groups), an attention core or a memory-bound kernel, forward or in either
    half of the backward. ``flops`` and ``moved_bytes`` as the cost model counts them; ``traffic`` of memory-bound ones.
    """

    family: str
    name: str
    phase: str
    sizes: Mapping[str, int]
    flops: float
    moved_bytes: float
    samples: Samples
    predicted_s: float
    traffic: Traffic | None = None

    @property
    def rate(self) -> float:
        """FLOP/s, or bytes/s of a memory-bound kernel."""
        return (self.flops or self.moved_bytes) / self.samples.median_s

    @property
    def product(self) -> MeasuredProduct:
        """As what constants of products are fitted to."""
        return MeasuredProduct(self.flops, self.moved_bytes, self.samples.median_s)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Measurements of one GPU's share of a model on a device. ``machine`` describes the device and the day."""

    config: Mapping[str, Any]
    model: Model
    training: Training
    gpu: GPU
    machine: Mapping[str, Any]
    repeats: int
    parts: Sequence[Part]
    kernels: Sequence[Kernel]

    def part(self, name: str) -> Part | None:
        """A part by name; None where the model has none."""
        return next((part for part in self.parts if part.name == name), None)

    def layers(self) -> Iterator[tuple[str, Part]]:
        """Rows of a profile: embedding, layers by number, head."""
        names = [MIXTURE if self.model.is_mixture(layer) else LAYER for layer in range(self.model.layers)]
        rows = [(EMBEDDING, EMBEDDING), *((str(layer), name) for layer, name in enumerate(names)), (HEAD, HEAD)]
        for key, name in rows:
            part = self.part(name)
            if part is not None:
                yield key, part

    def profile_csv(self) -> str:
        """A profile for ``costs: {profile: FILE}``; times are computing alone, to the nanosecond. What was not measured
        of every part is left to the model.
        """
        rows = dict(self.layers())
        phases = [name for name in _PHASES if any(name in part.times for part in rows.values())]
        cells = {f"{phase}_compute_us": [_microseconds(part, phase) for part in rows.values()] for phase in phases}
        if all(part.kept_bytes is not None for part in rows.values()):
            cells["activation_bytes"] = [str(part.kept_bytes) for part in rows.values()]
        if any(part.recomputed_bytes is not None for part in rows.values()):
            cells["recomputed_bytes"] = [str(part.recomputed_bytes or 0) for part in rows.values()]
        table = [["layer", *cells], *(list(row) for row in zip(rows, *cells.values(), strict=True))]
        lines = [f"# {line}" for line in self.provenance()] + [",".join(row) for row in table]
        return "\n".join(lines) + "\n"

    def provenance(self) -> list[str]:
        """Where the numbers come from."""
        shard = self.config["parallelism"]
        widest = max(samples.spread for _, samples in self.samples())
        ways = ", ".join(f"{name} {shard[name]}" for name in ("tensor", "context", "expert"))
        return [
            f"pipesim calibrate, {self.machine['date']}: {self.where()}",
            f"{self.model.name}, one GPU of {ways}; micro-batch {self.training.micro_batch}, "
            f"{self.training.precision}, recompute {self.training.recompute}",
            f"medians of {self.repeats} runs; distances between quartiles are up to {widest:.1%} of the median",
            "times are of computing alone: pipesim adds the communication that it models",
        ]

    def where(self) -> str:
        """The device and its software."""
        named = {name: value for name, value in self.machine.items() if name not in ("device", "kind", "date")}
        return ", ".join([str(self.machine["device"]), *(f"{name} {value}" for name, value in named.items())])

    def samples(self) -> Iterator[tuple[str, Samples]]:
        """All measurements of time by name."""
        for part in self.parts:
            yield from ((f"{part.name} {phase}", samples) for phase, samples in part.times.items())
        yield from ((f"{kernel.name} {kernel.phase}", kernel.samples) for kernel in self.kernels)

    def notes(self) -> list[str]:
        """What a reader should know before using the numbers."""
        spreads = sorted(((samples.spread, name) for name, samples in self.samples()), reverse=True)
        wide = [(spread, name) for spread, name in spreads if spread > WIDE]
        if not wide:
            return []
        named = ", ".join(f"{name} {spread:.0%}" for spread, name in wide[:3])
        return [
            f"{len(wide)} of {len(spreads)} measurements spread by more than {WIDE:.0%} of their median ({named}): "
            "let nothing else run, or repeat more often"
        ]

    def fit(self) -> GpuFit:
        """Constants of the device's kernels in the config's precision, on top of the config's GPU."""
        single = [each for each in self.kernels if each.sizes.get("groups") == 1]
        products = [each.product for each in single if each.phase != "weight_grad"]
        weight_grads = [each.product for each in single if each.phase == "weight_grad"]
        memory_bound = [(each.traffic, each.samples.median_s) for each in self.kernels if each.traffic is not None]
        return fit_gpu(self.gpu, self.training.precision, products, weight_grads, memory_bound)

    def as_json(self) -> dict[str, Any]:
        """Plain data: machine, parts, kernels with what they reach, and notes."""
        return {
            "schema_version": 1,
            "machine": dict(self.machine),
            "config": dict(self.config),
            "repeats": self.repeats,
            "parts": [_part_json(part) for part in self.parts],
            "kernels": [_kernel_json(kernel) for kernel in self.kernels],
            "notes": self.notes(),
        }


def _microseconds(part: Part, phase: str) -> str:
    return f"{part.times[phase].median_s * 1e6:.3f}" if phase in part.times else "0"


def _part_json(part: Part) -> dict[str, Any]:
    times = {
        phase: {**_samples_json(samples), "predicted_s": part.predicted_s[phase]}
        for phase, samples in part.times.items()
    }
    sizes = {name: getattr(part, name) for name in ("kept_bytes", "recomputed_bytes", "predicted_bytes")}
    return {"name": part.name, "times": times, **sizes}


def _kernel_json(kernel: Kernel) -> dict[str, Any]:
    named = {name: getattr(kernel, name) for name in ("family", "name", "phase", "flops", "moved_bytes")}
    reached = {"rate": kernel.rate, "predicted_s": kernel.predicted_s}
    return {**named, **kernel.sizes, **_samples_json(kernel.samples), **reached}


def _samples_json(samples: Samples) -> dict[str, float]:
    return {"median_s": samples.median_s, "spread": samples.spread}
