"""Calibrate on this machine, then simulate with what was found."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch_needed import has_torch, needs_torch

import pipesim
from pipesim.calibration.samples import Samples
from pipesim.cli import main
from pipesim.errors import ConfigError, PipesimError
from pipesim.interop import torch_runtime
from pipesim.ir.timeline import to_picoseconds

MICROBATCHES = 6


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on cores which other tests keep busy take a hundred times as long."""
    if not has_torch():
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(**sections: Any) -> dict[str, Any]:
    """Four layers of a small GPT on two stages."""
    base: dict[str, Any] = {
        "model": {"layers": 4, "hidden": 64, "heads": 4, "ffn": 256, "vocab": 320, "sequence": 64},
        "cluster": {"gpu": "a100-sxm-80gb", "nodes": 1},
        "parallelism": {"pipeline": 2},
        "schedule": "1f1b",
        "training": {"global_batch": MICROBATCHES, "precision": "fp32"},
    }
    return {name: {**base[name], **sections.get(name, {})} if name != "schedule" else base[name] for name in base}


def calibrated(directory: Path, given: dict[str, Any], *flags: str) -> tuple[Path, list[dict[str, str]]]:
    """The config's file and the rows of the profile that the command wrote."""
    file, profile = directory / "config.yaml", directory / "profile.csv"
    file.write_text(json.dumps(given))
    assert main(["calibrate", str(file), "--device", "cpu", "--repeats", "3", "--out", str(profile), *flags]) == 0
    lines = [line for line in profile.read_text().splitlines() if not line.startswith("#")]
    return file, list(csv.DictReader(lines))


def picoseconds(rows: list[dict[str, str]], *phases: str) -> int:
    """Sum over rows of what is written to the nanosecond."""
    return sum(round(float(row[f"{phase}_compute_us"]) * 1e3) * 1000 for row in rows for phase in phases)


@needs_torch
def test_a_step_takes_the_sum_of_the_measured_parts(tmp_path: Path) -> None:
    """Every rank is busy for its layers, the first also for the embedding and the last for the head, to the
    picosecond; one rank alone takes exactly that."""
    file, rows = calibrated(tmp_path, config())
    assert [row["layer"] for row in rows] == ["embedding", "0", "1", "2", "3", "head"]
    measured = {**config(), "costs": {"profile": str(tmp_path / "profile.csv")}}
    result = pipesim.simulate(measured)
    phases = ("forward", "input_grad", "weight_grad")
    busy = [to_picoseconds(rank["busy_s"]) for rank in result.metrics["ranks"]]
    assert busy == [MICROBATCHES * picoseconds(part, *phases) for part in (rows[:3], rows[3:])]
    alone = pipesim.simulate({**measured, "parallelism": {"pipeline": 1}})
    assert to_picoseconds(alone.metrics["compute_makespan_s"]) == MICROBATCHES * picoseconds(rows, *phases)
    costs = pipesim.plan(measured).costs
    kept = [sum(int(row["activation_bytes"]) for row in part) for part in (rows[:3], rows[3:])]
    assert costs.sizes.activations.tolist() == kept
    assert main(["run", str(file), "--set", f"costs.profile={tmp_path / 'profile.csv'}"]) == 0


@needs_torch
def test_one_gpu_of_several_is_measured_and_their_communication_modelled(tmp_path: Path) -> None:
    """With tensor parallelism a forward takes what was measured and the collectives that the model adds."""
    given = config(parallelism={"tensor": 2}, training={"recompute": "full"})
    _, rows = calibrated(tmp_path, given)
    modelled = pipesim.plan(given).costs.times
    times = pipesim.plan({**given, "costs": {"profile": str(tmp_path / "profile.csv")}}).costs.times
    assert (modelled.forward_collective > 0).all()
    for phase in ("forward", "input_grad", "weight_grad", "recompute"):
        inside = getattr(modelled, f"{phase}_collective")
        measured = [picoseconds(part, phase) * 1e-12 for part in (rows[:3], rows[3:])]
        assert getattr(times, phase) == pytest.approx(measured + inside, rel=1e-12)  # sums of floats
        assert getattr(times, f"{phase}_collective").tolist() == inside.tolist()
    assert times.overlap_collective.tolist() == modelled.overlap_collective.tolist()
    assert {row["activation_bytes"] for row in rows[1:-1]} == {str(64 * 64 * 4 // 2)}  # each GPU's half of the input


@needs_torch
def test_what_is_measured_grows_with_the_work() -> None:
    """A layer with over 100 times the operations takes more than twice as long. Twice: starting operators takes the
    small one most of its time. The fastest of five repeats, since others may run meanwhile.
    """
    small, large = (
        pipesim.calibrate(config(model=size), device="cpu", repeats=5)
        for size in ({"hidden": 64}, {"hidden": 512, "ffn": 2048, "sequence": 128})
    )
    for phase in ("forward", "input_grad", "weight_grad"):
        fastest = [min(each.part("layer").times[phase].seconds) for each in (small, large)]
        assert fastest[1] > 2 * fastest[0]


@needs_torch
def test_kernels_come_with_what_they_reach_and_what_is_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each matrix three times, as sizes say; rates are work over time."""
    calibrated(tmp_path, config(parallelism={"tensor": 2}), "--json", "-")
    out, err = capsys.readouterr()
    found = json.loads(out)
    kernels = {(each["name"], each["phase"]): each for each in found["kernels"]}
    sizes = {key: [each[name] for name in ("m", "n", "k")] for key, each in kernels.items() if "m" in each}
    assert sizes["qkv", "forward"] == [64, 96, 64]
    assert sizes["mlp_down", "input_grad"] == [64, 128, 64]
    assert sizes["vocabulary", "weight_grad"] == [64, 160, 64]
    assert len(sizes) == 15
    others = [key for key in kernels if key not in sizes]
    assert {("attention core", "input_grad"), ("norm", "forward"), ("activation", "input_grad")} <= set(others)
    for each in kernels.values():
        assert each["rate"] == (each["flops"] or each["moved_bytes"]) / each["median_s"]
        assert each["predicted_s"] > 0
    assert "ratio" in err
    assert found["config"]["parallelism"]["tensor"] == 2


@needs_torch
def test_a_device_becomes_a_gpu_for_a_config(tmp_path: Path) -> None:
    """The file of constants is a GPU given inline, and changes what its kernels are predicted to take."""
    gpu = tmp_path / "gpu.yaml"
    file, _ = calibrated(tmp_path, config(), "--gpu-out", str(gpu))
    assert main(["validate", str(file), "--set", f"cluster.gpu={gpu.read_text()}"]) == 0
    fields = yaml.safe_load(gpu.read_text())
    assert fields["base"] == "a100-sxm-80gb"
    slower = pipesim.simulate(config(cluster={"gpu": fields})).metrics["step_time_s"]
    assert slower > pipesim.simulate(config()).metrics["step_time_s"]  # no CPU is an A100


@needs_torch
@pytest.mark.parametrize(
    ("training", "columns"),
    [
        ({}, ["activation_bytes"]),
        ({"recompute": "full"}, ["recompute_compute_us", "activation_bytes", "recomputed_bytes"]),
        ({"recompute": "selective"}, ["activation_bytes"]),
        (
            {"recompute": "selective", "flash_attention": False},
            ["recompute_compute_us", "activation_bytes", "recomputed_bytes"],
        ),
        ({"recompute": "pointwise"}, ["recompute_compute_us"]),
        ({"recompute": "without-attention"}, ["recompute_compute_us"]),
    ],
)
def test_a_profile_says_what_was_measured_and_no_more(training: dict[str, Any], columns: list[str]) -> None:
    """With FlashAttention there is nothing to select; what is kept when norms, or all but the
    core, are repeated is left to the model."""
    text = pipesim.calibrate(config(training=training), device="cpu", repeats=2).profile_csv()
    header = next(line for line in text.splitlines() if not line.startswith("#"))
    phases = [f"{name}_compute_us" for name in ("forward", "input_grad", "weight_grad")]
    assert header.split(",") == ["layer", *phases, *columns]


@needs_torch
def test_layers_of_both_kinds_have_their_own_rows(tmp_path: Path) -> None:
    """Layers 0 and 1 are dense, the others have experts."""
    moe = {"experts": 4, "top_k": 2, "ffn": 128, "first_dense": 2}
    _, rows = calibrated(tmp_path, config(model={"moe": moe}))
    kept = [row["activation_bytes"] for row in rows[1:-1]]
    assert kept[0] == kept[1] != kept[2] == kept[3]


@needs_torch
def test_a_wide_spread_is_told() -> None:
    """By name, the widest first; a narrow one is not."""
    found = pipesim.calibrate(config(), device="cpu", repeats=1)
    assert found.notes() == []  # of one repeat
    head = found.part("head")
    wide = replace(head, times={**head.times, "forward": Samples((1.0, 2.0, 3.0))})
    (note,) = replace(found, parts=[*found.parts[:-1], wide]).notes()
    assert "(head forward 50%)" in note


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pipeline": {"ranks": 2, "microbatches": 2}, "schedule": "1f1b"}, "model: is missing"),
        (
            config(cluster={"gpu": "h100-sxm-80gb"}, training={"precision": "fp8"}),
            "training.precision: is not measured: PyTorch has no such layers; found fp8; allowed: bf16, fp16, fp32",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(given: dict[str, Any], message: str) -> None:
    """Before PyTorch is looked for."""
    with pytest.raises(ConfigError) as error:
        pipesim.calibrate(given)
    assert message in str(error.value)


def test_a_missing_pytorch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""

    def version(_: str) -> str:
        raise torch_runtime.PackageNotFoundError

    monkeypatch.setattr(torch_runtime, "version", version)
    with pytest.raises(PipesimError, match=r"pip install 'pipesim\[torch\]'"):
        pipesim.calibrate(config())


@needs_torch
def test_too_little_memory_is_told_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """In PyTorch's own words."""
    from pipesim.calibration import parts

    def fails(*_: Any) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 80 GiB\nmore")

    monkeypatch.setattr(parts, "measure_embedding", fails)
    with pytest.raises(PipesimError, match=r"Tried to allocate 80 GiB\nmore tensor parallelism"):
        pipesim.calibrate(config(), device="cpu")
