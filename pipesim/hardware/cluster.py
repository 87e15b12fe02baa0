"""Nodes of GPUs, the links inside a node and the network between nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipesim import catalog
from pipesim.errors import ConfigError, Problem, nearest
from pipesim.hardware.allowance import Allowance
from pipesim.hardware.fields import Fields
from pipesim.hardware.gpu import GPU, read_gpu

LinkKind = Literal["nvlink", "pcie", "network"]

# For links given inline without a latency: as in links.yaml (nvlink3, infiniband-hdr, pcie4).
_USUAL_LATENCY = {"intra_node": "8 us", "inter_node": "30 us", "host_link": "10 us"}

# Four PCIe switches for eight GPUs in DGX-1, DGX A100 and DGX H100 (NVIDIA, system architecture papers).
_GPUS_PER_SWITCH = 2


@dataclass(frozen=True)
class Link:
    """One direction of a link: a small transfer takes ``latency_s``, a large one ``bytes / bandwidth`` (bytes/s) and
    what it takes to start.

    ``bandwidth`` is per GPU inside a node and per network card between nodes. ``catalog_name`` is the entry
    whose measured tables hold for this link, None for one that is given inline. ``duplex``: bytes/s in each direction
    while both are busy; the same as in one when None. ``startup``: (bytes, seconds to start) by size, where measured.
    ``stated``: whether the bandwidth is a config's own.
    """

    name: str
    latency_s: float
    bandwidth: float
    kind: LinkKind
    catalog_name: str | None = None
    duplex: float | None = None
    startup: tuple[tuple[float, float], ...] = ()
    stated: bool = False

    def start_s(self, size_bytes: float) -> float:
        """Seconds of a transfer beside ``size_bytes / bandwidth``: between measured sizes linear in their logarithm."""
        if not self.startup or size_bytes <= 0:
            return self.latency_s
        sizes, seconds = np.array(self.startup).T
        return float(np.interp(np.log(size_bytes), np.log(sizes), seconds))

    @property
    def both_ways(self) -> float:
        """Bytes/s in each direction while both are busy."""
        return self.duplex if self.duplex is not None else self.bandwidth


@dataclass(frozen=True)
class Cluster:
    """``nodes`` equal nodes of ``gpus_per_node`` GPUs, each node with ``nics_per_node`` network cards.

    ``gpus_per_switch`` GPUs share a PCIe switch and its ``host_link``. ``host_memory_bytes`` of a node may hold
    activations; None for no limit. ``allowance`` is what of a GPU's memory no tensor can have.
    """

    gpu: GPU
    gpus_per_node: int
    nodes: int
    intra_node: Link
    inter_node: Link
    nics_per_node: int
    host_link: Link
    gpus_per_switch: int = 2
    host_memory_bytes: float | None = None
    allowance: Allowance = Allowance()

    @property
    def gpus(self) -> int:
        """GPUs in total."""
        return self.gpus_per_node * self.nodes

    def network_bandwidth(self, concurrent: int) -> float:
        """Bytes/s that each of ``concurrent`` GPUs of one node gets when all of them send to other nodes.

        A GPU sends through the cards nearest to it: it never has less than its share of them, and one GPU
        alone has at least one whole card.
        """
        return self.inter_node.bandwidth * max(1 / concurrent, self.nics_per_node / self.gpus_per_node)

    def message_bandwidth(self, concurrent: int, channels: int) -> float:
        """The same for messages, which NCCL sends through so many ``channels``, or through one for every card of a GPU
        where these are more (NVIDIA/nccl src/graph/paths.cc, `ncclTopoGetNchannels`). A bandwidth that a config states
        is what messages reach.
        """
        if self.inter_node.stated:
            return self.network_bandwidth(concurrent)
        used = max(channels, self.nics_per_node // self.gpus_per_node)
        return min(self.network_bandwidth(concurrent), used * self.gpu.network_channel)


def link(name: str) -> Link:
    """A link of the catalog by name. Raises ConfigError for an unknown name."""
    known = catalog.load("links")
    if name not in known:
        near = nearest(name, known)
        raise ConfigError([Problem("", "unknown link", repr(name), ", ".join(known), near)])
    return _catalog_link(name, [])


def build_cluster(
    gpu: str | Mapping[str, Any],
    gpus_per_node: int = 8,
    nodes: int = 1,
    intra_node: str | Mapping[str, Any] | None = None,
    inter_node: str | Mapping[str, Any] | None = None,
    nics_per_node: int | None = None,
    host_link: str | Mapping[str, Any] | None = None,
    gpus_per_switch: int | None = None,
    host_memory: float | None = None,
    context_memory: float = Allowance.context_bytes,
    nccl_memory: float = Allowance.nccl_bytes,
    fragmentation: float = Allowance.fragmentation,
    path: str = "cluster",
) -> Cluster:
    """A cluster from plain values, as a config has them.

    ``gpu`` and the links are catalog names or mappings: ``{base: a100-sxm-80gb, memory: "64 GB"}``,
    ``{bandwidth: "12.5 GB/s", latency: "20 us", nics_per_node: 4}``. Links default to the GPU's usual ones,
    the number of network cards to what the fabric's usual node has per GPU, GPUs per PCIe switch to two.
    ``host_memory`` is in bytes, per node; the last three as in `Allowance`. Raises ConfigError with every
    problem found, at paths under ``path``.
    """
    problems: list[Problem] = []
    counts = Fields({"gpus_per_node": gpus_per_node, "nodes": nodes, "nics": nics_per_node}, path, problems)
    node_size, node_count = counts.count("gpus_per_node"), counts.count("nodes")
    built_gpu = read_gpu(gpu, f"{path}.gpu", problems)
    usual_intra, usual_inter = ("nvlink3", "infiniband-hdr") if built_gpu is None else _usual_links(built_gpu)
    intra = _read_link(intra_node or usual_intra, f"{path}.intra_node", problems)
    inter = _read_link(inter_node or usual_inter, f"{path}.inter_node", problems)
    usual_host = "pcie4" if built_gpu is None else built_gpu.host_link
    host = _read_link(host_link or usual_host, f"{path}.host_link", problems)
    cards = _nics(nics_per_node, inter_node or usual_inter, node_size, path, problems)
    shared = _per_switch(gpus_per_switch, node_size, path, problems)
    if built_gpu is None or problems:
        raise ConfigError(problems)
    allowance = Allowance(context_memory, nccl_memory, fragmentation)
    return Cluster(built_gpu, node_size, node_count, intra, inter, cards, host, shared, host_memory, allowance)


def _usual_links(gpu: GPU) -> tuple[str, str]:
    return gpu.intra_node, gpu.inter_node


def _read_link(value: object, path: str, problems: list[Problem]) -> Link:
    """A link by name or inline; ``path`` ends in ``intra_node``, ``inter_node`` or ``host_link``: what is
    allowed there."""
    if isinstance(value, Mapping):
        return _inline_link(value, path, problems)
    known = _allowed_links(path)
    if isinstance(value, str) and value in known:
        return _catalog_link(value, problems)
    allowed = ", ".join(known) + ", or a mapping with bandwidth and latency"
    problems.append(Problem(path, "unknown link", repr(value), allowed, nearest(str(value), known)))
    return _catalog_link(known[0], problems)


def _allowed_links(path: str) -> list[str]:
    between_nodes = path.endswith("inter_node")
    return [name for name, entry in catalog.load("links").items() if (entry["kind"] == "network") == between_nodes]


def _catalog_link(name: str, problems: list[Problem]) -> Link:
    entry = catalog.load("links")[name]
    fields = Fields(entry, f"links.{name}", problems)
    latency_s = fields.quantity("latency", "seconds", positive=False)
    duplex = fields.quantity("duplex", "bytes_per_s") if "duplex" in entry else None
    startup = tuple((float(size), us * 1e-6) for size, us in entry.get("startup_us", {}).items())
    return Link(name, latency_s, fields.quantity("bandwidth", "bytes_per_s"), entry["kind"], name, duplex, startup)


def _inline_link(value: Mapping[str, Any], path: str, problems: list[Problem]) -> Link:
    """``{bandwidth, latency, name}``, or a catalog link with some of it replaced: ``{base, ...}``."""
    where = path.rsplit(".", maxsplit=1)[-1]
    fields = Fields(value, path, problems)
    own = {"inter_node": ("nics_per_node",), "intra_node": ("kind",), "host_link": ("kind", "duplex")}
    fields.only(("base", "name", "bandwidth", "latency", *own[where]))
    base: Mapping[str, Any] = {"latency": _USUAL_LATENCY[where]}
    if "base" in value:
        base = catalog.load("links")[fields.name("base", _allowed_links(path))]
    usual = "pcie" if where == "host_link" else "nvlink"
    kind = "network" if where == "inter_node" else fields.name("kind", ("nvlink", "pcie"), base.get("kind", usual))
    duplex = value.get("duplex", None if "bandwidth" in value else base.get("duplex"))
    return Link(
        name=str(value.get("name", f"custom {kind}")),
        latency_s=fields.quantity("latency", "seconds", base["latency"], positive=False),
        bandwidth=fields.quantity("bandwidth", "bytes_per_s", base.get("bandwidth")),
        kind=kind,  # type: ignore[arg-type]
        duplex=None if duplex is None else fields.quantity("duplex", "bytes_per_s", duplex),
        stated="bandwidth" in value,
    )


def _per_switch(given: int | None, gpus_per_node: int, path: str, problems: list[Problem]) -> int:
    if given is None:
        return _GPUS_PER_SWITCH if gpus_per_node % _GPUS_PER_SWITCH == 0 else 1
    shared = Fields({"gpus_per_switch": given}, path, problems).count("gpus_per_switch")
    if gpus_per_node % shared:
        allowed = f"a divisor of gpus_per_node = {gpus_per_node}"
        problems.append(Problem(f"{path}.gpus_per_switch", "does not fit", repr(given), allowed))
    return shared


def _nics(given: object, inter_node: object, gpus_per_node: int, path: str, problems: list[Problem]) -> int:
    """Network cards per node: as given, or as given with the fabric, or like the fabric's usual node."""
    inline: Mapping[str, Any] = inter_node if isinstance(inter_node, Mapping) else {}
    inside = inline.get("nics_per_node")
    if given is not None and inside is not None and given != inside:
        message = f"differs from inter_node.nics_per_node = {inside!r}"
        problems.append(Problem(f"{path}.nics_per_node", message, repr(given)))
    if given is not None:
        return Fields({"nics_per_node": given}, path, problems).count("nics_per_node")
    if inside is not None:
        return Fields(inline, f"{path}.inter_node", problems).count("nics_per_node")
    name = inline.get("base", inter_node)
    entry = catalog.load("links").get(name, {}) if isinstance(name, str) else {}
    if "nics_per_node" not in entry:
        return gpus_per_node
    per_gpu = float(entry["nics_per_node"]) / float(entry["reference_gpus_per_node"])
    return max(1, round(per_gpu * gpus_per_node))
