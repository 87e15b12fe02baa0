"""The summary as a small piece of HTML, for notebooks: key numbers, the time as one bar, details on demand."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from pipesim.report import numbers
from pipesim.report.colours import ALARM
from pipesim.report.heading import heading
from pipesim.report.text import PARTS, summary, time_unit

Metrics = Mapping[str, Any]

COLOURS = {
    "compute": "#3f7fbf",
    "recompute": "#1d3557",
    "exposed_p2p": "#b0739c",
    "exposed_collective": "#1f7a4d",
    "warmup": "#c9cdd3",
    "dependency": "#a3a8b0",
    "drain": "#dcdfe3",
    "optimizer": "#55585e",
}
"""Parts of the time breakdown: what works in colour, what waits in grey."""


def summary_html(metrics: Metrics) -> str:
    """One ``<div>`` without scripts or outside references; it inherits the page's text colours."""
    config = metrics.get("config") or {}
    numbers_first = "".join(_card(*card) for card in cards(metrics))
    title = "<br>".join(escape(line) for line in heading(config, len(metrics.get("ranks") or [])))
    return (
        '<div style="max-width:60em;line-height:1.4">'
        f'<div style="font-weight:600">{title}</div>'
        f'<div style="display:flex;flex-wrap:wrap;gap:0.4em 2em;margin:0.5em 0">{numbers_first}</div>'
        f"{_bar(metrics)}"
        "<details><summary>details</summary>"
        f'<pre style="line-height:1.25">{escape(summary(metrics))}</pre></details></div>'
    )


def cards(metrics: Metrics) -> list[tuple[str, str, bool]]:
    """The numbers that one looks for first: name, text, and whether it is bad news."""
    throughput, memory = metrics.get("throughput") or {}, metrics.get("memory") or {}
    found = []
    if metrics.get("step_time_s") is not None:
        found.append(("step time", numbers.duration(metrics["step_time_s"], time_unit(metrics)), False))
    if metrics.get("bubble_fraction") is not None:
        found.append(("bubble fraction", numbers.share(metrics["bubble_fraction"]), False))
    if throughput.get("mfu") is not None:
        found.append(("MFU", numbers.share(throughput["mfu"]), False))
    if throughput.get("tokens_per_s_per_gpu") is not None:
        found.append(("tokens/s/GPU", numbers.grouped(throughput["tokens_per_s_per_gpu"]), False))
    if memory.get("peak_bytes") is not None and memory.get("capacity_bytes") is not None:
        text = f"{numbers.size(memory['peak_bytes'])} of {numbers.size(memory['capacity_bytes'])}"
        over = memory.get("fits") is False
        found.append(("does not fit" if over else "peak memory", text, over))
    return found


def _card(name: str, text: str, alarm: bool) -> str:
    return (
        f'<div style="{f"color:{ALARM}" if alarm else ""}"><div style="font-size:85%;opacity:0.7">{name}</div>'
        f'<div style="font-size:120%">{text}</div></div>'
    )


def _bar(metrics: Metrics) -> str:
    """The time breakdown as one bar with its legend."""
    parts = {key: value for key, value in (metrics.get("time_breakdown") or {}).items() if value and value > 0}
    total = sum(parts.values())
    if not total:
        return ""
    pieces, names = [], []
    for key, value in parts.items():
        colour, name = COLOURS.get(key, "#9c9c9c"), PARTS.get(key, key)
        share = numbers.share(value / total)
        pieces.append(
            f'<div title="{name} {share}" style="width:{100 * value / total:.3f}%;background:{colour}"></div>'
        )
        swatch = f'<span style="display:inline-block;width:0.8em;height:0.8em;background:{colour}"></span>'
        names.append(f'<span style="white-space:nowrap">{swatch} {name} {share}</span>')
    return (
        f'<div style="display:flex;height:1.1em;overflow:hidden;border-radius:2px">{"".join(pieces)}</div>'
        f'<div style="display:flex;flex-wrap:wrap;gap:0 1.2em;font-size:85%;margin:0.3em 0">{"".join(names)}</div>'
    )
