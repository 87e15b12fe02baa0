"""``pipesim calibrate``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pipesim.cli.output import STANDARD_OUTPUT, aligned, check_files, progress, say, write_json, write_text

if TYPE_CHECKING:
    from pipesim.study.calibration import Calibration, Kernel


def calibrate(arguments: argparse.Namespace) -> int:
    """Measure one GPU's share of a config's model and write what was found."""
    files = {"--out": arguments.out, "--gpu-out": arguments.gpu_out, "--json": arguments.json}
    check_files(files, [arguments.config])
    from pipesim import api
    from pipesim.study.calibrate import calibrate as run

    config = api.load(arguments.config, overrides=arguments.overrides)
    with progress("measuring") as bar:
        found = run(
            config,
            device=arguments.device,
            repeats=arguments.repeats,
            fewer_rows=arguments.gpu_out is not None,
            progress=bar,
        )
    for note in found.notes():
        print(f"note: {note}", file=sys.stderr)
    say(_summary(found), STANDARD_OUTPUT if STANDARD_OUTPUT in files.values() else None)
    if arguments.out:
        write_text(found.profile_csv(), arguments.out)
    if arguments.gpu_out:
        _write_gpu(found, arguments.gpu_out)
    if arguments.json:
        write_json(found.as_json(), arguments.json)
    return 0


def _summary(found: Calibration) -> str:
    """Every piece and kernel: measured, predicted for the config's GPU, and how many times as long it took."""
    head = ["", "measured", "spread", found.gpu.name, "ratio"]
    shard = found.config["parallelism"]
    return "\n".join(
        [
            f"{found.model.name}, one GPU of tensor {shard['tensor']}, context {shard['context']}, "
            f"expert {shard['expert']}, {found.training.precision}, on {found.where()}",
            f"Medians of {found.repeats}, next to what is predicted for {found.gpu.name}.",
            "",
            aligned(head, [*_times(found), *_sizes(found)]),
            "",
            aligned(["kernel", "reached", *head[1:]], [_kernel(each) for each in found.kernels]),
        ]
    )


def _times(found: Calibration) -> list[list[str]]:
    from pipesim.units import format_seconds

    return [
        [
            f"{part.name} {phase.replace('_', ' ')}",
            format_seconds(samples.median_s),
            f"{samples.spread:.1%}",
            format_seconds(part.predicted_s[phase]),
            _ratio(samples.median_s, part.predicted_s[phase]),
        ]
        for part in found.parts
        for phase, samples in part.times.items()
    ]


def _sizes(found: Calibration) -> list[list[str]]:
    from pipesim.units import format_bytes

    return [
        [
            f"{part.name} activations",
            format_bytes(part.kept_bytes),
            "",
            format_bytes(part.predicted_bytes),
            _ratio(part.kept_bytes, part.predicted_bytes),
        ]
        for part in found.parts
        if part.kept_bytes is not None
    ]


def _kernel(kernel: Kernel) -> list[str]:
    from pipesim.units import format_rate, format_seconds

    sizes = " x ".join(str(kernel.sizes[name]) for name in ("m", "n", "k")) if kernel.sizes else ""
    groups = f" ({kernel.sizes['groups']} of them)" if kernel.sizes.get("groups", 1) > 1 else ""
    measured, predicted = kernel.samples.median_s, kernel.predicted_s
    return [
        f"{kernel.name} {kernel.phase.replace('_', ' ')} {sizes}{groups}".rstrip(),
        format_rate(kernel.rate, "FLOP/s" if kernel.flops else "B/s"),
        format_seconds(measured),
        f"{kernel.samples.spread:.1%}",
        format_seconds(predicted),
        _ratio(measured, predicted),
    ]


def _ratio(measured: float, predicted: float) -> str:
    return f"{measured / predicted:.3g}" if predicted else "-"


def _write_gpu(found: Calibration, name: str) -> None:
    """The device as a GPU given inline, and how well its constants fit."""
    import yaml

    fit = found.fit()
    comments = [
        *found.provenance()[:1],
        f"for cluster: {{gpu: ...}}; matrix products are within {fit.products.error:.1%} of these constants on average;"
        f" what is not here is that of {found.gpu.base}",
    ]
    if fit.clipped:
        comments.append(f"faster than the peak of {found.gpu.base}, and set to 1: {', '.join(fit.clipped)}")
    text = yaml.safe_dump({**fit.fields, "name": str(found.machine["device"])}, sort_keys=False, allow_unicode=True)
    write_text("".join(f"# {line}\n" for line in comments) + text, name)
