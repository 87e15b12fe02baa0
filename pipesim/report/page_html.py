"""A run as one HTML file that needs nothing else: summary, timeline, memory over time, and why ranks idle."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol

from pipesim.ir.timeline import PICOSECONDS
from pipesim.report import numbers
from pipesim.report.boxes import STRIPED_ROUTES
from pipesim.report.causes import causes_of
from pipesim.report.colours import IDLE
from pipesim.report.explain import NAMES
from pipesim.report.heading import heading
from pipesim.report.html import COLOURS, cards
from pipesim.report.page_data import page_data
from pipesim.report.text import PARTS, summary, time_unit

if TYPE_CHECKING:
    import pandas as pd

Metrics = Mapping[str, Any]

SCRIPTS = ("data.js", "lanes.js", "charts.js", "report.js")

WIDTH, HEIGHT, BOTTOM, LEFT = 640, 190, 20, 40
"""Of the bars that show each rank's step, in units of the picture, with room for labels below and beside."""

MANY = 256
"""With more ranks than this, only as many bars are drawn, evenly spread."""


ON_DARK = {
    "recompute": "#6c63c7",
    "exposed_collective": "#2f9e68",
    "warmup": "#4d525c",
    "dependency": "#747a85",
    "drain": "#363a42",
    "optimizer": "#a2a7b0",
}
"""Parts of the time breakdown that have another colour on a dark page."""


class Reportable(Protocol):
    """What is needed of a result."""

    @property
    def metrics(self) -> Metrics: ...
    @property
    def timeline(self) -> pd.DataFrame: ...
    @property
    def memory(self) -> pd.DataFrame: ...
    @property
    def idle(self) -> pd.DataFrame: ...
    @property
    def critical_path(self) -> Sequence[tuple[int, float, float]]: ...


def page(result: Reportable, version: str) -> str:
    """The whole page; the same result gives the same text."""
    metrics = result.metrics
    config = metrics.get("config") or {}
    machine, *plan = heading(config, len(metrics["ranks"])) or ["pipeline"]
    unit = time_unit(metrics)
    capacity = metrics["memory"]["capacity_bytes"]
    data = page_data(result.timeline, result.idle, result.critical_path, result.memory, capacity, unit)
    causes = causes_of(result.idle, metrics["step_time_s"], len(metrics["ranks"]))
    return _filled(
        _file("page.html"),
        {
            "version": escape(version),
            "title": escape(f"{', '.join(plan) or machine}: pipesim"),
            "machine": escape(machine),
            "plan": escape(", ".join(plan)),
            "warnings": "".join(f'<p class="warning">{escape(each)}</p>' for each in metrics.get("warnings") or []),
            "cards": "".join(_card(*card) for card in cards(metrics)),
            "legend": _legend(data.contents["styles"], data.contents["routes"]),
            "breakdown": _breakdown(metrics),
            "causes": _causes(causes, float(result.timeline["start_s"].min()), metrics["step_time_s"], unit),
            "summary": escape(summary(metrics)),
            "config": escape(json.dumps(config, indent=2, ensure_ascii=False)),
            "uplot_css": _file("uplot/uPlot.min.css"),
            "page_css": _file("page.css"),
            "uplot_js": _file("uplot/uPlot.iife.min.js"),
            "page_js": "\n".join(_file(name) for name in SCRIPTS),
            "index": json.dumps(data.contents, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
            "data": data.arrays,
        },
    )


def _file(name: str) -> str:
    return resources.files("pipesim.report.page").joinpath(name).read_text(encoding="utf-8")


def _filled(template: str, values: Mapping[str, str]) -> str:
    """The template with ``{{name}}`` replaced, once: what is put in is not looked at again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _card(name: str, text: str, alarm: bool) -> str:
    return f'<div class="card{" alarm" if alarm else ""}"><span>{escape(name)}</span><b>{escape(text)}</b></div>'


def _swatch(light: str, dark: str) -> str:
    return f'<span class="swatch" style="--c:{light};--d:{dark}"></span>'


def _legend(styles: Sequence[Metrics], routes: int) -> str:
    """One entry per name, with the shades of its chunks; then what stripes and empty places mean."""
    entries: dict[str, dict[str, str]] = {}
    for style in styles:
        entries.setdefault(style["name"], {}).setdefault(style["light"], style["dark"])
    rows = []
    for name, shades in entries.items():
        shown = list(shades.items())[:4]
        note = f" (chunks 0 to {len(shades) - 1})" if len(shades) > 1 else ""
        swatches = "".join(_swatch(*shade) for shade in shown)
        rows.append(f'<li><span class="swatches">{swatches}</span>{escape(name + note)}</li>')
    if 2 <= routes <= STRIPED_ROUTES:
        name = "route 1" if routes == 2 else f"routes 1 to {routes - 1}, the higher the stripe"
        rows.append(f'<li><span class="stripe"></span>{name}</li>')
    rows.append(f'<li><span class="swatches">{_swatch(IDLE, "#2b2f36")}</span>idle</li>')
    return "".join(rows)


def _pair(part: str) -> tuple[str, str]:
    """The colour of a part of the step, on light and on dark pages."""
    light = COLOURS.get(part, "#9c9c9c")
    return light, ON_DARK.get(part, light)


def _breakdown(metrics: Metrics) -> str:
    """A bar per rank, its parts stacked, and the means."""
    ranks, step_s = metrics["ranks"], metrics["step_time_s"]
    if not step_s:
        return ""
    shown = ranks[:: -(-len(ranks) // MANY)]
    pitch = (WIDTH - LEFT) / len(shown)
    gap = min(3.0, 0.15 * pitch) if pitch > 4 else 0.0
    bars = [_bar(rank["time_breakdown"], step_s, LEFT + i * pitch, pitch - gap) for i, rank in enumerate(shown)]
    every = -(-len(shown) // max(1, int((WIDTH - LEFT) / 34)))
    names = [
        _text(LEFT + (i + 0.5) * pitch - gap / 2, HEIGHT - 5, "middle", str(shown[i]["rank"]))
        for i in range(0, len(shown), every)
    ]
    axis = [
        _text(LEFT - 6, (HEIGHT - BOTTOM) * (1 - share) + (9 if share == 1 else 4), "end", f"{share:.0%}")
        for share in (0.0, 0.5, 1.0)
    ]
    picture = f'<svg class="bars" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(axis + bars + names)}</svg>'
    return picture + _means(metrics)


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _bar(parts: Metrics, step_s: float, left: float, width: float) -> str:
    height, below, rows = HEIGHT - BOTTOM, 0.0, []
    for name, value in parts.items():
        if not value or value <= 0:
            continue
        light, dark = _pair(name)
        size = height * value / step_s
        rows.append(
            f'<rect class="part" style="--c:{light};--d:{dark}" x="{left:.2f}" y="{height - below - size:.2f}" '
            f'width="{width:.2f}" height="{size:.2f}"/>'
        )
        below += size
    return "".join(rows)


def _means(metrics: Metrics) -> str:
    parts, step_s = metrics["time_breakdown"], metrics["step_time_s"]
    known = {name: value for name, value in parts.items() if value and value > 0}
    times = numbers.durations(list(known.values()), step_s, time_unit(metrics))
    rows = [
        f"<tr><td>{_swatch(*_pair(name))} {escape(PARTS.get(name, name))}</td>"
        f'<td class="number">{time}</td><td class="number">{numbers.share(value / step_s)}</td></tr>'
        for (name, value), time in zip(known.items(), times, strict=True)
    ]
    head = '<tr><th>mean over ranks</th><th class="number">time</th><th class="number">of the step</th></tr>'
    return f"<table>{head}{''.join(rows)}</table>"


def _causes(causes: Sequence[Metrics], origin_s: float, step_s: float, unit: str | None) -> str:
    """Idle time by cause, and the longest waits of each, which the reader can go to."""
    if not causes:
        return '<p class="note">They do not.</p>'
    rows = []
    for cause, time in zip(causes, numbers.durations([c["mean_s"] for c in causes], step_s, unit), strict=True):
        rows.append(
            f'<tr class="cause"><td colspan="2">{escape(NAMES[cause["cause"]])}</td><td class="number">{time}</td>'
            f'<td class="number">{numbers.share(cause["share"])}</td></tr>'
        )
        rows += [_wait(each, origin_s, step_s, unit) for each in cause["longest"]]
    head = (
        '<tr><th>mean over ranks; longest waits</th><th>for</th><th class="number">time</th>'
        '<th class="number">of the step</th></tr>'
    )
    note = '<p class="note">Idle time of the compute streams; communication inside ops is not part of it.</p>'
    return f"{note}<table>{head}{''.join(rows)}</table>"


def _wait(wait: Metrics, origin_s: float, step_s: float, unit: str | None) -> str:
    length = wait["end_s"] - wait["start_s"]
    time = numbers.duration(length, unit)
    place = f"{wait['waiting_for']} on rank {wait['on_rank']}" if wait["on_rank"] >= 0 else str(wait["waiting_for"])
    start, end = (round((wait[key] - origin_s) * PICOSECONDS) for key in ("start_s", "end_s"))
    return (
        f'<tr class="wait" tabindex="0" data-start="{start}" data-end="{end}" title="Show in the timeline">'
        f'<td>rank {wait["rank"]}</td><td>{escape(place)}</td><td class="number">{time}</td>'
        f'<td class="number">{numbers.share(length / step_s)}</td></tr>'
    )
