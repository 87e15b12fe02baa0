"""The hardware catalog: complete, sourced, and equal to the figures it cites."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pipesim import catalog
from pipesim.hardware import build_gpu, link
from pipesim.units import parse_bandwidth

KINDS = ("gpus", "links", "collectives")
GPUS = [
    *(
        "p100-pcie-16gb",
        "v100-sxm2-16gb",
        "v100-sxm2-32gb",
        "a100-sxm-40gb",
        "a100-sxm-80gb",
        "a100-pcie-80gb",
    ),
    *("a800-sxm-80gb", "h100-sxm-80gb", "h100-pcie-80gb", "h800-sxm-80gb", "h200-sxm-141gb", "h20-sxm-96gb"),
    "b200-sxm-180gb",
]
FABRICS = [
    *("infiniband-edr", "infiniband-hdr", "infiniband-ndr", "omni-path-100"),
    *("roce-100", "efa-p4d", "efa-p5", "aries"),
]


def unsourced(value: object, path: str, sourced: bool = False) -> list[str]:
    """Paths of all values below ``value`` that no mapping with a ``source`` holds."""
    if isinstance(value, Mapping):
        covered = sourced or bool(str(value.get("source", "")).strip())
        return [path_ for key, item in value.items() for path_ in unsourced(item, f"{path}.{key}", covered)]
    return [] if sourced else [path]


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_stands_in_an_entry_with_a_source(kind):
    assert [path for name, entry in catalog.load(kind).items() for path in unsourced(entry, name)] == []


@pytest.mark.parametrize("name", GPUS)
def test_every_fitted_number_of_a_gpu_names_its_own_source(name):
    entry = catalog.load("gpus")[name]
    fits = [entry["elementwise"], entry["weight_grad"], entry["launch_floor"], *entry["gemm"].values()]
    assert all(len(fit["source"]) > 10 for fit in fits)


def test_the_promised_gpus_and_fabrics_are_there():
    assert set(GPUS) == set(catalog.names("gpus"))
    assert set(FABRICS) == {name for name in catalog.names("links") if link(name).kind == "network"}


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_is_complete(name):
    gpu = build_gpu(name)
    assert set(gpu.gemm) == set(gpu.peak_flops)
    assert {link(gpu.intra_node).kind, link(gpu.host_link).kind} <= {"nvlink", "pcie"}
    assert link(gpu.inter_node).kind == "network"


@pytest.mark.parametrize("name", GPUS)
def test_cuda_reports_between_99_and_115_percent_of_the_gigabytes_in_the_name(name):
    # GiB on the box are sold as GB: 79.15 GiB are 85 GB. H200 and B200 keep up to 6 % more to themselves.
    nominal = float(name.rsplit("-", 1)[1].removesuffix("gb")) * 1e9
    assert 0.99 * nominal < build_gpu(name).memory_bytes < 1.15 * nominal


@pytest.mark.parametrize("name", catalog.names("links"))
def test_no_link_reaches_more_than_its_specification(name):
    entry = catalog.load("links")[name]
    assert link(name).bandwidth <= parse_bandwidth(entry["specification"])


def test_peak_is_clock_times_multipliers():
    # MHz x FMA per tensor core x tensor cores x 2; the datasheets round to 312 and 989.
    assert build_gpu("a100-sxm-80gb").peak("bf16") == pytest.approx(1410e6 * 256 * 432 * 2, rel=2e-3)
    assert build_gpu("h100-sxm-80gb").peak("bf16") == pytest.approx(1830e6 * 512 * 528 * 2, rel=2e-3)


def test_a_cut_gpu_differs_from_the_full_one_in_its_links_only():
    full, cut = (catalog.load("gpus")[name] for name in ("h100-sxm-80gb", "h800-sxm-80gb"))
    assert {key for key in full if full[key] != cut[key]} == {"source", "intra_node"}


def test_an_unknown_kind_is_not_found():
    with pytest.raises(FileNotFoundError):
        catalog.load("warp-drives")


def test_nobody_can_change_what_all_share():
    """A copy can be changed, and changes nothing."""
    entry = catalog.load("gpus")["a100-sxm-80gb"]
    with pytest.raises(TypeError):
        entry["peak"]["fp16"] = "1 TFLOP/s"
    own = catalog.copied(entry)
    own["peak"]["fp16"] = "1 TFLOP/s"
    assert entry["peak"]["fp16"] == "312 TFLOP/s"
