"""The summary of one run in plain text: how long, how idle, how full, and where the time went."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipesim.report import numbers
from pipesim.report.asynchronous import asynchronous
from pipesim.report.columns import bar, indent, table
from pipesim.report.heading import heading
from pipesim.report.misfit import misfit
from pipesim.report.offload import offload

if TYPE_CHECKING:
    from rich.text import Text

Metrics = Mapping[str, Any]

ALL_RANKS = 8
"""Up to so many ranks have a line each in the memory table; of more, the extremes stand for all."""

PARTS = {
    "compute": "compute",
    "recompute": "recompute",
    "exposed_p2p": "exposed transfers",
    "exposed_collective": "exposed collectives",
    "warmup": "warm-up",
    "dependency": "waiting for other ranks",
    "drain": "drain",
    "optimizer": "optimizer",
}
"""Parts of the time breakdown and their names."""

CATEGORIES = ("weights", "gradients", "optimizer", "activations", "buffers")


def summary(metrics: Metrics, *, ascii_only: bool = False) -> str:
    """The metrics of a run (a dict as in the result JSON) as aligned text that ends in a newline.

    Quantities that are null are left out. Without hardware, times are printed as bare numbers.
    """
    sections = [
        _heading(metrics),
        _times(metrics),
        _throughput(metrics),
        asynchronous(metrics, time_unit(metrics)),
        _memory(metrics),
        offload(metrics, time_unit(metrics)),
        _in_flight(metrics),
        misfit(metrics),
        _breakdown(metrics, ascii_only),
        _critical_path(metrics),
        _links(metrics),
        _theory(metrics),
        _warnings(metrics),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def is_abstract(metrics: Metrics) -> bool:
    """Whether the run has no hardware, so that times are in units of the given costs."""
    config = metrics.get("config") or {}
    if "pipeline" in config and "cluster" not in config:
        return True
    known = [metrics.get("throughput") or {}, metrics.get("memory") or {}]
    return not config and known[0].get("mfu") is None and known[1].get("capacity_bytes") is None


def time_unit(metrics: Metrics) -> str | None:
    """The unit for all times of a run: bare numbers without hardware, else one that fits each number."""
    return numbers.PLAIN if is_abstract(metrics) else None


def _heading(metrics: Metrics) -> list[str]:
    return heading(metrics.get("config") or {}, len(metrics.get("ranks") or []))


def _times(metrics: Metrics) -> list[str]:
    unit = time_unit(metrics)
    rows: list[tuple[str, str, str]] = []

    def add(label: str, key: str, form: Callable[[float], str], remark: str = "") -> None:
        if metrics.get(key) is not None:
            rows.append((label, form(metrics[key]), remark))

    add("Step time", "step_time_s", lambda value: numbers.duration(value, unit))
    add("Compute makespan", "compute_makespan_s", lambda value: numbers.duration(value, unit))
    add("Bubble fraction", "bubble_fraction", numbers.share, "idle share of all ranks' compute makespan")
    add("Bubble overhead", "bubble_overhead", numbers.share, "compute makespan over mean busy time, less one")
    add("Span bubble fraction", "span_bubble_fraction", numbers.share, "idle share of the longest rank's own span")
    return table(rows, "<><")


def _throughput(metrics: Metrics) -> list[str]:
    given = metrics.get("throughput") or {}
    labels = {
        "samples_per_s": ("Samples per second", numbers.digits),
        "tokens_per_s": ("Tokens per second", numbers.grouped),
        "tokens_per_s_per_gpu": ("Tokens per second and GPU", numbers.grouped),
        "model_tflops_per_gpu": ("Model TFLOP/s per GPU", numbers.digits),
        "hardware_tflops_per_gpu": ("Hardware TFLOP/s per GPU", numbers.digits),
        "mfu": ("MFU", numbers.share),
        "hfu": ("HFU", numbers.share),
    }
    rows = [(label, form(given[key])) for key, (label, form) in labels.items() if given.get(key) is not None]
    return table(rows, "<>")


def _memory(metrics: Metrics) -> list[str]:
    """Peak and what it consists of, per rank."""
    ranks = [rank for rank in metrics.get("ranks") or [] if (rank.get("memory") or {}).get("peak_bytes") is not None]
    if not ranks:
        return []
    memory = metrics.get("memory") or {}
    capacity = memory.get("capacity_bytes")
    unit = numbers.PLAIN if is_abstract(metrics) else None
    shown, remark = _pick(ranks, capacity)
    parts = [part for part in CATEGORIES if any(rank["memory"].get(f"{part}_bytes") for rank in ranks)]
    rows = [["rank", "peak", *(["used"] if capacity else []), *parts]]
    for rank in shown:
        own = rank["memory"]
        used = [numbers.share(own["peak_bytes"] / capacity)] if capacity else []
        sizes = [numbers.size(own.get(f"{part}_bytes") or 0.0, unit) for part in parts]
        rows.append([str(rank["rank"]), numbers.size(own["peak_bytes"], unit), *used, *sizes])
    head = "Memory at each rank's peak" + (f", capacity {numbers.size(capacity, unit)}" if capacity else "")
    return [head, *indent(table(rows, ">" * len(rows[0]))), *indent([*remark, *_peak_cause(ranks, metrics)])]


def _peak_cause(ranks: Sequence[Metrics], metrics: Metrics) -> list[str]:
    """When the fullest rank peaks and what it runs then."""
    fullest = max(ranks, key=lambda rank: rank["memory"]["peak_bytes"])
    op, at_s = (fullest["memory"].get(key) for key in ("at_op", "at_s"))
    if op is None or at_s is None:
        return []
    name = _spelled(op)
    return [f"rank {fullest['rank']} peaks at {numbers.duration(at_s, time_unit(metrics))}, in {name}"]


def _spelled(token: str) -> str:
    """An op's token in words: ``0B3`` is B of micro-batch 3, stage 0."""
    match = re.fullmatch(r"(\d*)([A-Z_]+?)(\d*)", token)
    if match is None:
        return token
    stage, kind, microbatch = match.groups()
    parts = [kind + (f" of micro-batch {microbatch}" if microbatch else ""), *([f"stage {stage}"] if stage else [])]
    return ", ".join(parts)


def _in_flight(metrics: Metrics) -> list[str]:
    peaks = _peaks_in_flight(metrics)
    if not peaks:
        return []
    return [f"Peak activations in flight, in micro-batches of a whole rank: {_few(peaks)}"]


def _peaks_in_flight(metrics: Metrics) -> list[float]:
    """One number per rank, or none unless all are known."""
    peaks = [rank.get("peak_in_flight") for rank in metrics.get("ranks") or []]
    return [] if None in peaks else peaks


def _pick(ranks: Sequence[Metrics], capacity: float | None) -> tuple[Sequence[Metrics], list[str]]:
    """The ranks to print, and a line on the ranks that are not."""
    if len(ranks) <= ALL_RANKS:
        return ranks, []
    fullest = max(ranks, key=lambda rank: rank["memory"]["peak_bytes"])
    emptiest = min(ranks, key=lambda rank: rank["memory"]["peak_bytes"])
    mean = sum(rank["memory"]["peak_bytes"] for rank in ranks) / len(ranks)
    over = 0 if capacity is None else sum(rank["memory"]["peak_bytes"] > capacity for rank in ranks)
    line = f"fullest and emptiest of {len(ranks)} ranks; mean peak {numbers.size(mean)}"
    if capacity is not None:
        line += f"; {over} of {len(ranks)} ranks do not fit" if over else "; all ranks fit"
    return [fullest, emptiest], [line]


def _breakdown(metrics: Metrics, ascii_only: bool) -> list[str]:
    """The parts of the step, longest share visible at a glance; parts without time are left out."""
    parts = metrics.get("time_breakdown") or {}
    total = sum(value or 0.0 for value in parts.values())
    if not total:
        return []
    shown = [(PARTS.get(key, key), value) for key, value in parts.items() if value and value > 0]
    times = numbers.durations([value for _, value in shown], total, time_unit(metrics))
    rows = [
        (name, time, numbers.share(value / total), bar(value / total, 30, ascii_only))
        for (name, value), time in zip(shown, times, strict=True)
    ]
    return ["Where the time goes (mean over ranks)", *indent(table(rows, "<>><"))]


def _critical_path(metrics: Metrics) -> list[str]:
    shares = {kind: value for kind, value in (metrics.get("critical_path") or {}).items() if value}
    if not shares:
        return []
    ordered = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    return ["Critical path: " + ", ".join(f"{kind} {numbers.share(value)}" for kind, value in ordered)]


def _links(metrics: Metrics) -> list[str]:
    """One line: which link the hops of the pipeline use, and each group."""
    links = metrics.get("links")
    if not links:
        return []
    hops = Counter(hop["link"] for hop in links["hops"])
    parts = [f"pipeline {' and '.join(f'{name} ({count} hops)' for name, count in hops.items())}"] if hops else []
    kinds = ("tensor", "context", "expert", "data")
    parts += [f"{kind} {links['groups'][kind]['link']}" for kind in kinds if kind in links["groups"]]
    return [f"Links: {', '.join(parts)}"] if parts else []


def _theory(metrics: Metrics) -> list[str]:
    """Published closed forms beside what was simulated."""
    theory = metrics.get("theory") or {}
    rows = []
    if theory.get("bubble_fraction") is not None and metrics.get("bubble_fraction") is not None:
        simulated = metrics["bubble_fraction"]
        rows.append(("bubble fraction", numbers.share(theory["bubble_fraction"]), numbers.share(simulated)))
    peaks = _peaks_in_flight(metrics)
    if theory.get("peak_in_flight") is not None and peaks:
        published = theory["peak_in_flight"]
        published = list(published) if isinstance(published, Sequence) else [published]
        simulated_peaks = peaks if len(published) == len(peaks) else [max(peaks)]
        rows.append(("peak in flight", _few(published), _few(simulated_peaks)))
    if not rows:
        return []
    lines = indent(table([("", "published", "simulated"), *rows], "<>>"))
    source = [f"  {theory['source']}"] if theory.get("source") else []
    return ["Theory (equal stages, free transfers)", *lines, *source]


def _few(values: Sequence[float]) -> str:
    """All values, or the extremes of many."""
    if len(values) <= ALL_RANKS:
        return " ".join(f"{value:g}" for value in values)
    return f"{min(values):g} to {max(values):g}"


def _warnings(metrics: Metrics) -> list[str]:
    return [f"Warning: {warning}" for warning in metrics.get("warnings") or []]


def rich_summary(metrics: Metrics) -> Text:
    """The same summary with emphasis, for `rich.console.Console.print`."""
    from rich.text import Text

    text = Text(summary(metrics))
    text.highlight_regex(r"(?m)^(Step time|Memory at|Where the time|Critical path|Theory)[^\n:]*", "bold")
    text.highlight_regex(r"(?m)^(Bubble|Span|Compute|Samples|Tokens|Model|Hardware|MFU|HFU)[a-zA-Z/ ]*?(?=  )", "cyan")
    text.highlight_regex(r"(?m)^Step time +(?P<value>.*)$", "bold")
    text.highlight_regex(f"[{'▏▎▍▌▋▊▉█'}]+", "cyan")
    text.highlight_regex(r"(?m)^DOES NOT FIT.*$", "bold red")
    text.highlight_regex(r"\d+ of \d+ ranks do not fit", "bold red")
    text.highlight_regex(r"(?m)^Warning:.*$", "yellow")
    return text
