"""A GPU: what it can do on paper and what its kernels reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipesim import catalog
from pipesim.errors import ConfigError, Problem, nearest
from pipesim.hardware.fields import Fields

_KEYS = (
    "base",
    "name",
    "memory",
    "memory_bandwidth",
    "sms",
    "intra_node",
    "inter_node",
    "host_link",
    "peak",
    "gemm",
    "elementwise",
    "weight_grad",
    "spread",
    "network_channel",
    "launch_floor",
    "source",
)
_PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "fp8")


@dataclass(frozen=True)
class GemmFit:
    """``overhead_s + max(FLOP / (efficiency x peak), bytes / (memory_efficiency x memory bandwidth))``."""

    efficiency: float
    memory_efficiency: float
    overhead_s: float


@dataclass(frozen=True)
class GPU:
    """One accelerator. Rates in FLOP/s and bytes/s, by precision where that matters.

    ``memory_bytes`` is what CUDA reports as the device's total. ``base`` is the catalog entry that kernel
    tables are looked up under; it differs from ``name`` for a GPU given inline. ``weight_grad_slowdown``: a
    weight-gradient GEMM takes this times an equal forward one. ``spread``: standard deviation over the mean of how fast
    boards of this kind compute. ``network_channel``: bytes/s of one NCCL channel to another node. The launch floors
    are the least time of one transformer layer in eager mode. ``intra_node``, ``inter_node`` and ``host_link`` name
    its usual links.
    """

    name: str
    base: str
    peak_flops: Mapping[str, float] = field(hash=False)
    memory_bytes: float
    memory_bandwidth: float
    sms: int
    gemm: Mapping[str, GemmFit] = field(hash=False)
    elementwise_efficiency: float
    elementwise_overhead_s: float
    weight_grad_slowdown: float
    spread: float
    network_channel: float
    launch_floor_forward_s: float
    launch_floor_backward_s: float
    intra_node: str
    inter_node: str
    host_link: str

    def peak(self, precision: str) -> float:
        """Dense peak FLOP/s. Raises ConfigError when the chip has no such precision."""
        self._require(precision)
        return self.peak_flops[precision]

    def gemm_fit(self, precision: str) -> GemmFit:
        """How GEMMs of this precision perform. Raises ConfigError when the chip has no such precision."""
        self._require(precision)
        return self.gemm[precision]

    def _require(self, precision: str) -> None:
        if precision in self.peak_flops:
            return
        allowed = ", ".join(self.peak_flops)
        message = f"{self.name} does not compute in this precision"
        near = nearest(precision, self.peak_flops)
        raise ConfigError([Problem("training.precision", message, repr(precision), allowed, near)])


def build_gpu(gpu: str | Mapping[str, Any]) -> GPU:
    """A GPU by catalog name, or ``{base: name, memory: "64 GB", ...}`` with any field replaced.

    Fields are those of catalog/gpus.yaml; nested ones (``peak``, ``gemm``) may be given in part. Raises
    ConfigError with every problem found, at paths under ``cluster.gpu``.
    """
    problems: list[Problem] = []
    built = read_gpu(gpu, "cluster.gpu", problems)
    if built is None or problems:
        raise ConfigError(problems)
    return built


def read_gpu(gpu: object, path: str, problems: list[Problem]) -> GPU | None:
    """As `build_gpu`, adding to ``problems`` instead of raising; None when the catalog entry is unknown."""
    override: Mapping[str, Any] = gpu if isinstance(gpu, Mapping) else {"base": gpu}
    base, known = override.get("base"), catalog.names("gpus")
    if not isinstance(base, str) or base not in known:
        where = f"{path}.base" if isinstance(gpu, Mapping) else path
        problems.append(_unknown(base, where, known))
        return None
    fields = Fields(_merged(catalog.load("gpus")[base], override), path, problems)
    fields.only(_KEYS)
    return _gpu(fields, base)


def _unknown(base: object, where: str, known: list[str]) -> Problem:
    allowed = ", ".join(known)
    if base is None:
        return Problem(where, "is missing: the GPU to start from", allowed=allowed)
    return Problem(where, "unknown GPU", repr(base), allowed, nearest(str(base), known))


def _merged(entry: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """``entry`` with ``override`` on top, mappings merged key by key."""
    merged = dict(entry)
    for key, value in override.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _gpu(fields: Fields, base: str) -> GPU:
    links = [name for name, link in catalog.load("links").items() if link["kind"] != "network"]
    fabrics = [name for name, link in catalog.load("links").items() if link["kind"] == "network"]
    elementwise, weight_grad = fields.inside("elementwise"), fields.inside("weight_grad")
    launch_floor, spread = fields.inside("launch_floor"), fields.inside("spread")
    channel = fields.inside("network_channel")
    elementwise.only(("efficiency", "overhead", "source"))
    weight_grad.only(("slowdown", "source"))
    spread.only(("deviation", "source"))
    channel.only(("bandwidth", "source"))
    launch_floor.only(("forward", "backward", "source"))
    peak_flops = _peaks(fields.inside("peak"))
    return GPU(
        name=str(fields.data.get("name", base)),
        base=base,
        peak_flops=peak_flops,
        memory_bytes=fields.quantity("memory", "bytes"),
        memory_bandwidth=fields.quantity("memory_bandwidth", "bytes_per_s"),
        sms=fields.count("sms"),
        gemm=_gemm_fits(fields.inside("gemm"), peak_flops),
        elementwise_efficiency=elementwise.number("efficiency", above=0, at_most=1),
        elementwise_overhead_s=elementwise.quantity("overhead", "seconds", positive=False),
        weight_grad_slowdown=weight_grad.number("slowdown", above=0, at_most=10),
        spread=spread.deviation("deviation", at_most=0.2),
        network_channel=channel.quantity("bandwidth", "bytes_per_s"),
        launch_floor_forward_s=launch_floor.quantity("forward", "seconds", positive=False),
        launch_floor_backward_s=launch_floor.quantity("backward", "seconds", positive=False),
        intra_node=fields.name("intra_node", links),
        inter_node=fields.name("inter_node", fabrics),
        host_link=fields.name("host_link", links),
    )


def _peaks(fields: Fields) -> dict[str, float]:
    fields.only(_PRECISIONS)
    return {name: fields.quantity(name, "flops_per_s") for name in _PRECISIONS if name in fields.data}


def _gemm_fits(fields: Fields, peak_flops: Mapping[str, float]) -> dict[str, GemmFit]:
    fields.only(_PRECISIONS)
    return {name: _gemm_fit(fields.inside(name)) for name in peak_flops}


def _gemm_fit(fields: Fields) -> GemmFit:
    fields.only(("efficiency", "memory_efficiency", "overhead", "source"))
    return GemmFit(
        efficiency=fields.number("efficiency", above=0, at_most=1),
        memory_efficiency=fields.number("memory_efficiency", above=0, at_most=1),
        overhead_s=fields.quantity("overhead", "seconds", positive=False),
    )
