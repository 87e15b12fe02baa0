"""Timelines as Chrome trace events, for https://ui.perfetto.dev and chrome://tracing.

A process per rank, a track per stream, arrows from what is sent to what receives it, counters for memory and
for micro-batches in flight. Times are whole nanoseconds, the resolution of Perfetto, so that neighbouring
slices touch and never overlap: Perfetto moves slices that overlap on one track to an overflow track.

Source: the Trace Event Format document of Google's Catapult project; google/perfetto
docs/getting-started/other-formats.md for what Perfetto reads of it.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipesim.errors import PipesimError
from pipesim.files import write_atomically
from pipesim.interop.flows import flows_of
from pipesim.interop.tracks import Tracks, tracks_of

Event = dict[str, Any]

SUFFIXES = (".json", ".json.gz")

SHARED = 1_000_000
"""Process of streams that no rank owns."""


def write_trace(
    frame: pd.DataFrame,
    memory: pd.DataFrame | None,
    path: str | Path,
    *,
    flows: Iterable[tuple[int, int]] | None = None,
) -> Path:
    """Write a timeline, and memory over time if given, as a trace; the same bytes every time, all or nothing.

    Args:
        frame: one row per op: rank, resource, kind, stage, microbatch, route, start_s, end_s, pair.
        memory: rank, time_s, category, bytes; a value holds from its time on.
        path: ends in ``.json`` or ``.json.gz``.
        flows: row positions (from, to) of ops to be joined by arrows; from every send to its receive, or
            where transfers are no ops from producer to consumer on another rank, by default.

    Raises:
        PipesimError: another suffix, or the file cannot be written.
    """
    target = Path(path)
    if not target.name.endswith(SUFFIXES):
        raise PipesimError(f"{target}: a trace is written as {' or '.join(SUFFIXES)}")
    write_atomically(target, encode(events(frame, memory, flows=flows), compressed=target.name.endswith(".gz")))
    return target


def events(
    frame: pd.DataFrame, memory: pd.DataFrame | None = None, *, flows: Iterable[tuple[int, int]] | None = None
) -> Iterator[Event]:
    """The trace events of a timeline: names of processes and tracks, slices, arrows, counters."""
    frame = _complete(frame)
    start, end = nanoseconds(frame["start_s"]), nanoseconds(frame["end_s"])
    tracks = tracks_of(frame, start, end)
    process = np.where(frame["rank"] < 0, SHARED, frame["rank"]).astype(np.int64)
    yield from _names(process, tracks)
    yield from _slices(frame, process, tracks.of_op, start, end)
    joined = flows_of(frame) if flows is None else list(flows)
    yield from _arrows(joined, process, tracks.of_op, start, end)
    yield from _in_flight(frame, start, end)
    if memory is not None:
        yield from _memory(memory)


def encode(listed: Iterable[Event], compressed: bool) -> bytes:
    """The events as JSON, one per line; gzip without name and time, so that equal traces are equal files."""
    write = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
    lines = ",\n".join(write(event) for event in listed)
    text = f'{{"displayTimeUnit":"ms","traceEvents":[\n{lines}\n]}}\n'.encode()
    if not compressed:
        return text
    out = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=out, compresslevel=6, mtime=0) as packed:
        packed.write(text)
    return out.getvalue()


def nanoseconds(seconds: pd.Series[float] | NDArray[np.float64]) -> NDArray[np.int64]:
    """Times rounded to whole nanoseconds."""
    return np.rint(np.asarray(seconds, np.float64) * 1e9).astype(np.int64)


def microseconds(ns: int) -> float:
    """A time as the format wants it, which a reader that cuts off below a nanosecond gets back exactly."""
    value = ns / 1000
    while int(value * 1000.0) < ns:
        value = float(np.nextafter(value, np.inf))
    return value


def _complete(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.reset_index(drop=True)
    frame = frame.assign(**{name: frame[name].astype(str) for name in ("resource", "kind")})
    for name, default in (("route", 0), ("pair", -1)):
        if name not in frame.columns:
            frame[name] = default
    return frame


def _names(process: NDArray[np.int64], tracks: Tracks) -> Iterator[Event]:
    """What processes and tracks are called, and their order."""
    for pid in np.unique(process).tolist():
        name = "shared" if pid == SHARED else f"rank {pid}"
        yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}
        yield {"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": pid}}
    used = sorted(set(zip(process.tolist(), tracks.of_op.tolist(), strict=True)))
    for pid, tid in used:
        yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": tracks.names[tid]}}
        yield {"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid, "args": {"sort_index": tid}}


def _slices(
    frame: pd.DataFrame,
    process: NDArray[np.int64],
    track: NDArray[np.int64],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
) -> Iterator[Event]:
    """One complete event per op, named by its token, in order of time on every track."""
    waited = _waited(process, track, start, end)
    rows = frame[["stage", "kind", "microbatch", "route"]].to_numpy(object)
    for i in np.lexsort((start, track, process)).tolist():
        stage, kind, microbatch, route = rows[i]
        args = {"stage": int(stage), "microbatch": int(microbatch), "route": int(route)}
        args = {key: value for key, value in args.items() if value >= 0}
        yield {
            "ph": "X",
            "name": token(int(stage), str(kind), int(microbatch)),
            "cat": str(kind),
            "pid": int(process[i]),
            "tid": int(track[i]),
            "ts": microseconds(int(start[i])),
            "dur": microseconds(int(end[i] - start[i])),
            "args": {**args, "idle_before_us": microseconds(int(waited[i]))},
        }


def token(stage: int, kind: str, microbatch: int) -> str:
    """The op in PyTorch's action syntax, such as ``2F5``; without a stage or micro-batch just what there is."""
    return f"{stage if stage >= 0 else ''}{kind}{microbatch if microbatch >= 0 else ''}"


def _waited(
    process: NDArray[np.int64], track: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Time since the op before it on the same track ended, in nanoseconds; 0 for the first."""
    order = np.lexsort((start, track, process))
    waited = np.zeros(len(start), np.int64)
    same = (process[order[1:]] == process[order[:-1]]) & (track[order[1:]] == track[order[:-1]])
    waited[order[1:]] = np.where(same, start[order[1:]] - end[order[:-1]], 0)
    return waited


def _arrows(
    joined: Sequence[tuple[int, int]],
    process: NDArray[np.int64],
    track: NDArray[np.int64],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
) -> Iterator[Event]:
    """A flow per pair of ops: it leaves in the last nanosecond of one slice and enters the start of the other."""
    for number, (source, target) in enumerate(joined):
        common = {"name": "transfer", "cat": "transfer", "id": number}
        leave = max(int(start[source]), int(end[source]) - 1)
        for phase, op, time in (("s", source, leave), ("f", target, int(start[target]))):
            place = {"pid": int(process[op]), "tid": int(track[op]), "ts": microseconds(time)}
            yield {"ph": phase, **common, **place, **({"bp": "e"} if phase == "f" else {})}


def _in_flight(frame: pd.DataFrame, start: NDArray[np.int64], end: NDArray[np.int64]) -> Iterator[Event]:
    """Activations held per rank, from F's start until W's or B's end, in units of one rank's whole share."""
    kind, rank = frame["kind"].to_numpy(str), frame["rank"].to_numpy(np.int64)
    opens, closes = kind == "F", np.isin(kind, ("B", "W"))
    held = frame.loc[opens, ["rank", "route", "stage"]].drop_duplicates()
    chunks = held.groupby(["rank", "route"]).size().groupby("rank").max()
    for pid, count in zip(chunks.index.tolist(), chunks.tolist(), strict=True):
        own = rank == pid
        times = np.concatenate([start[own & opens], end[own & closes]])
        change = np.concatenate([np.ones((own & opens).sum()), -np.ones((own & closes).sum())])
        order = np.lexsort((change, times))
        total = np.cumsum(change[order]) / count
        last = np.append(np.diff(times[order]) > 0, True)
        for time, value in zip(times[order][last].tolist(), total[last].tolist(), strict=True):
            yield _counter(pid, "micro-batches in flight", time, {"in flight": value})


def _memory(memory: pd.DataFrame) -> Iterator[Event]:
    """All categories of a rank whenever one changes."""
    rows = memory.assign(ns=nanoseconds(memory["time_s"]))
    wide = rows.groupby(["rank", "ns", "category"], sort=True, observed=True)["bytes"].last().unstack("category")
    wide = wide.groupby("rank").ffill().fillna(0.0)
    names = [str(name) for name in wide.columns]
    for (rank, ns), values in zip(wide.index.tolist(), wide.to_numpy().tolist(), strict=True):
        yield _counter(int(rank), "memory (bytes)", int(ns), dict(zip(names, values, strict=True)))


def _counter(pid: int, name: str, ns: int, values: dict[str, float]) -> Event:
    return {"ph": "C", "name": name, "pid": pid, "ts": microseconds(ns), "args": values}
