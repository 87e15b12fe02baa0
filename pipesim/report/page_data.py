"""What the HTML report draws, as typed arrays: ops, idle intervals, critical path and memory over time.

Times are picoseconds since the step's start, and where they come in rows, differences from one to the next: those
repeat a lot, so that the compressed arrays take one to two bytes per op.
"""

from __future__ import annotations

import base64
import gzip
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipesim.ir.timeline import PICOSECONDS
from pipesim.report import numbers
from pipesim.report.boxes import STRIPED_ROUTES, Look, styles
from pipesim.report.colours import ink_on
from pipesim.report.curves import curves_of
from pipesim.report.explain import NAMES
from pipesim.report.lanes import COMPUTE, checked, choose_resources, chunk_of

Column = NDArray[Any]

P2P = "p2p"
"""Transfers beside the compute streams: several at once, so they have no lane."""


class Data(NamedTuple):
    """Plain data that says what there is, and the arrays in base64; ``contents`` says where each of them lies."""

    contents: dict[str, Any]
    arrays: str


class _Ops(NamedTuple):
    """The ops that are drawn, lane by lane, and how; ``lane`` numbers (rank, resource) pairs."""

    frame: pd.DataFrame
    lane: NDArray[np.int64]
    style: NDArray[np.int64]


def page_data(
    timeline: pd.DataFrame,
    idle: pd.DataFrame,
    critical_path: Sequence[tuple[int, float, float]],
    memory: pd.DataFrame,
    capacity_bytes: float | None,
    unit: str | None,
) -> Data:
    """Everything that the page's charts need.

    Tables are as `pipesim.result.Result` has them; ``unit`` is for times (`numbers.PLAIN` without hardware).
    """
    frame = checked(timeline)
    origin = float(frame["start_s"].min())
    span_s = float(frame["end_s"].max()) - origin
    resources = [name for name in choose_resources(frame, "all") if name != P2P]
    ranks = np.unique(frame.loc[frame["rank"] >= 0, "rank"].to_numpy(np.int64))
    ops, look = _ops(frame, resources, ranks)
    arrays = {
        **_op_arrays(ops, origin, len(ranks) * len(resources)),
        **_idle_arrays(idle, origin, ranks),
        **_path_arrays(critical_path, origin),
        **_memory_arrays(memory, origin, ranks),
    }
    unit = unit or numbers.time_unit(span_s)
    contents = {
        "span": span_s * PICOSECONDS,
        "unit": {"perPicosecond": numbers.time_scale(unit) / PICOSECONDS, "name": _symbol(unit)},
        "bytes": _byte_unit(memory, capacity_bytes, unit),
        "capacity": capacity_bytes,
        "ranks": ranks.tolist(),
        "resources": resources,
        "styles": look,
        "routes": int(ops.frame["route"].max()) + 1 if len(ops.frame) else 0,
        "causes": [NAMES[name] for name in idle["cause"].cat.categories],
    }
    return _packed(contents, arrays)


def _symbol(unit: str) -> str:
    return "" if unit == numbers.PLAIN else numbers.SYMBOLS.get(unit, unit)


def _byte_unit(memory: pd.DataFrame, capacity_bytes: float | None, unit: str) -> dict[str, Any]:
    if unit == numbers.PLAIN:
        return {"size": 1.0, "name": ""}
    name = numbers.byte_unit(max(capacity_bytes or 0.0, float(memory["bytes"].max()), 1.0))
    return {"size": numbers.byte_scale(name), "name": name}


def _ops(frame: pd.DataFrame, resources: Sequence[str], ranks: NDArray[np.int64]) -> tuple[_Ops, list[dict[str, Any]]]:
    """Ops that take time, by lane and start, and what their styles look like."""
    chunk = np.maximum(chunk_of(frame), 0)
    drawn = frame["resource"].isin(resources) & frame["rank"].isin(ranks) & (frame["end_s"] > frame["start_s"])
    frame, chunk = frame[drawn], chunk[drawn.to_numpy()]
    column = frame["resource"].map({name: i for i, name in enumerate(resources)}).to_numpy(np.int64)
    lane = np.searchsorted(ranks, frame["rank"].to_numpy(np.int64)) * len(resources) + column
    style, looks = styles(frame["kind"].to_numpy(), chunk)
    order = np.lexsort((frame["start_s"].to_numpy(), lane))
    return _Ops(frame.iloc[order], lane[order], style[order]), [_look(look) for look in looks]


def _look(look: Look) -> dict[str, Any]:
    """A style on light and on dark pages, with the ink that is read on it."""
    shades = {"light": hexadecimal(look.colour), "dark": hexadecimal(look.on_dark)}
    inks = {"ink": ink_on(look.colour), "darkInk": ink_on(look.on_dark)}
    return {"kind": look.kind, "name": look.name, "chunk": look.chunk, **shades, **inks}


def hexadecimal(colour: NDArray[np.float64]) -> str:
    """``#rrggbb``."""
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour.tolist())


def _op_arrays(ops: _Ops, origin: float, lanes: int) -> dict[str, Column]:
    frame = ops.frame
    routes = int(frame["route"].max()) + 1 if len(frame) else 0
    striped = frame["route"].clip(lower=0) if 2 <= routes <= STRIPED_ROUTES else frame["route"] * 0
    start = _picoseconds(frame["start_s"], origin)
    paired = frame["pair"].to_numpy() >= 0
    second = paired & frame.duplicated(["rank", "resource", "pair"]).to_numpy()
    first = np.searchsorted(ops.lane, np.arange(lanes + 1))
    return {
        "lane": first.astype("<i4"),
        "start": _differences(start, first),
        "length": _picoseconds(frame["end_s"], origin) - start,
        "style": ops.style.astype("<u2"),
        "stage": frame["stage"].to_numpy("<i4"),
        "microbatch": frame["microbatch"].to_numpy("<i4"),
        "half": (paired.astype("u1") + second).astype("u1"),
        "route": np.where(frame["resource"] == COMPUTE, striped, 0).astype("u1"),
    }


def _idle_arrays(idle: pd.DataFrame, origin: float, ranks: NDArray[np.int64]) -> dict[str, Column]:
    first = np.searchsorted(idle["rank"].to_numpy(np.int64), np.append(ranks, ranks[-1:] + 1))
    start = _picoseconds(idle["start_s"], origin)
    return {
        "idleRank": first.astype("<i4"),
        "idleStart": _differences(start, first),
        "idleLength": _picoseconds(idle["end_s"], origin) - start,
        "idleCause": idle["cause"].cat.codes.to_numpy("u1"),
        "idleOn": idle["on_rank"].to_numpy("<i4"),
        "idleFor": np.frombuffer("\n".join(idle["waiting_for"]).encode(), "u1"),
    }


def _path_arrays(path: Sequence[tuple[int, float, float]], origin: float) -> dict[str, Column]:
    columns = np.array(path, np.float64).reshape(-1, 3)
    times = np.rint((columns[:, 1:] - origin) * PICOSECONDS)
    return {"pathRank": columns[:, 0].astype("<i4"), "pathStart": times[:, 0], "pathEnd": times[:, 1]}


def _memory_arrays(memory: pd.DataFrame, origin: float, ranks: NDArray[np.int64]) -> dict[str, Column]:
    """Total bytes of every rank as step curves."""
    curves = curves_of(memory, ranks.tolist())
    first = np.concatenate([[0], np.cumsum([len(own.time_s) for own in curves])])
    time = np.rint((np.concatenate([own.time_s for own in curves]) - origin) * PICOSECONDS)
    total = np.concatenate([own.total for own in curves])
    return {"memoryRank": first.astype("<i4"), "memoryTime": _differences(time, first), "memoryBytes": total}


def _picoseconds(times: pd.Series[float], origin: float) -> NDArray[np.float64]:
    rounded: NDArray[np.float64] = np.rint((times.to_numpy(np.float64) - origin) * PICOSECONDS)
    return rounded


def _differences(values: NDArray[np.float64], first: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each value less the one before; the first of each group as it is."""
    change: NDArray[np.float64] = np.diff(values, prepend=0.0)
    heads = first[:-1][np.diff(first) > 0]
    change[heads] = values[heads]
    return change


def _packed(contents: Mapping[str, Any], arrays: Mapping[str, Column]) -> Data:
    """All arrays one after the other, little-endian, each from a multiple of eight bytes on, compressed."""
    assert sys.byteorder == "little", "arrays are written as they are in memory"
    places, parts, offset = {}, [], 0
    for name, values in arrays.items():
        raw = np.ascontiguousarray(values).tobytes()
        places[name] = [values.dtype.str.lstrip("<|"), offset, len(values)]
        parts.append(raw + b"\0" * (-len(raw) % 8))
        offset += len(parts[-1])
    packed = gzip.compress(b"".join(parts), 6, mtime=0)
    return Data({**contents, "arrays": places}, base64.b64encode(packed).decode())
