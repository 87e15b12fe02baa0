"""Traces that PyTorch's profiler wrote of a pipeline run, and pipesim's own traces, as observed ops.

``torch.distributed.pipelining`` runs every action inside ``record_function("PP:" + action)``, for example
``PP:2F5`` or ``PP:(0F7;7B3)OVERLAP_F_B`` (pytorch/pytorch:torch/distributed/pipelining/schedules.py,
``_get_profiler_function_name``). Its two schedules without actions, 1F1B and GPipe with one stage per rank, name
their micro-batches ``Forward 5`` and ``Backward 5``; ranks are then taken in the order of the files' own.

On a GPU, an op lasts from the first to the last kernel that was launched inside its annotation, by whichever
thread, communication kernels aside (they also run while they wait). Without a GPU, it lasts as long as its
annotation, less the time in which it still waited for its message, which a receive of the gloo backend shows.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipesim.errors import ProgramError
from pipesim.interop.observation import (
    COMPUTE,
    Observation,
    TraceError,
    finished,
    occurrences,
    pipeline_ranks,
    routes,
    whole_steps,
)
from pipesim.ir.op import Op, Pair, parse

Event = dict[str, Any]

_PREFIX = "PP:"
_SINGLE = re.compile(r"(Forward|Backward) (\d+)$")
_TOKEN = re.compile(r"\d+[FIWB]\d+$")
_RECEIVE = re.compile(r"PP:(\d+RECV_[FB]\d+)$")
_RECEIVED = re.compile(r"\w+:recv$")
_LAUNCHES = ("cuda_runtime", "cuda_driver")
_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_ON_GPU = "gpu_user_annotation"


@dataclass(frozen=True)
class _Seen:
    """One op or overlapped pair of a process, in microseconds since the file's base time."""

    op: Op | Pair
    start_us: float
    end_us: float


def read_kineto(paths: Sequence[Path]) -> Observation:
    """Ops of a pipeline run, from one trace per rank (PyTorch) or one for all (pipesim).

    Raises:
        TraceError: a file cannot be read or shows no pipeline; two files show different parts of one rank.
    """
    processes: dict[Hashable, list[_Seen]] = {}
    bases: dict[Hashable, int] = {}
    ranks: list[tuple[int, Path, list[Event]]] = []
    for path in paths:
        document = load(path)
        events = [event for event in _listed(document, path) if _is_slice(event)]
        base, rank = _header(document)
        found = {process: seen for process, seen in _processes(events, path) if seen}
        if not found:
            ranks.append((rank, path, events))
        for process, seen in found.items():
            processes[path, process] = seen
            bases[path, process] = base
    if not processes:
        processes = _single_stage(sorted(ranks, key=lambda each: each[0]))
        bases = dict.fromkeys(processes, 0)
    elif ranks:
        raise TraceError(f"{ranks[0][1]}: {_NO_PIPELINE}")
    return _observed(processes, bases)


_NO_PIPELINE = (
    "no pipeline in it; expected the PP: annotations of torch.distributed.pipelining (such as PP:2F5), "
    "its 'Forward 5' and 'Backward 5', or a trace that pipesim wrote"
)


def load(path: Path) -> Any:
    """A JSON document, gzipped or not.

    Raises:
        TraceError: it cannot be read, or is cut off, or no JSON.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        return json.loads(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TraceError(f"{path}: the gzip file is damaged or cut off: {error}") from None
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: not JSON, or cut off: {error}") from None


def _listed(document: Any, path: Path) -> list[Any]:
    """The events of a Chrome trace, which is a list or an object that holds it."""
    events = document.get("traceEvents") if isinstance(document, dict) else document
    if not isinstance(events, list):
        raise TraceError(f"{path}: not a Chrome trace: there is no list 'traceEvents' in it")
    return events


def _header(document: Any) -> tuple[int, int]:
    """Base time in nanoseconds and rank, zero where the file does not say."""
    if not isinstance(document, dict):
        return 0, 0
    about = document.get("distributedInfo")
    rank = about.get("rank") if isinstance(about, dict) else 0
    base = document.get("baseTimeNanoseconds")
    return base if isinstance(base, int) else 0, rank if isinstance(rank, int) else 0


def _is_slice(event: Any) -> bool:
    return isinstance(event, dict) and event.get("ph") == "X" and isinstance(event.get("name"), str)


def _processes(events: list[Event], path: Path) -> Iterator[tuple[Hashable, list[_Seen]]]:
    """The ops of every process in one file."""
    annotated = [event for event in events if event["name"].startswith(_PREFIX) and event.get("cat") != _ON_GPU]
    if not annotated:
        yield from _own_traces(events, path)
        return
    processes: dict[str, list[Event]] = defaultdict(list)
    for event in annotated:
        processes[str(event.get("pid"))].append(event)
    if len(processes) == 1:
        kernels = _kernels(events, annotated)
        annotated = [{**event, **kernels.get(id(event), {})} for event in annotated]
        yield next(iter(processes)), _seen(annotated, {} if kernels else _arrivals(events), path)
        return
    for process, own in processes.items():
        yield process, _seen(own, _arrivals([e for e in events if str(e.get("pid")) == process]), path)


def _kernels(events: list[Event], annotated: list[Event]) -> dict[int, Event]:
    """For annotations inside which kernels were launched, their time on the GPU; by the annotation's identity."""
    spans = sorted((_start(event), _start(event) + _length(event), id(event)) for event in annotated)
    begins = [span[0] for span in spans]
    launched = {_correlation(event): _start(event) for event in events if event.get("cat") in _LAUNCHES}
    times: dict[int, tuple[float, float]] = {}
    for event in events:
        launch = launched.get(_correlation(event)) if event.get("cat") in _ON_DEVICE else None
        if launch is None or "nccl" in event["name"].lower():
            continue
        at = bisect_right(begins, launch) - 1
        if at >= 0 and launch <= spans[at][1]:
            first, last = times.get(spans[at][2], (math.inf, -math.inf))
            times[spans[at][2]] = min(first, _start(event)), max(last, _start(event) + _length(event))
    return {annotation: {"ts": first, "dur": last - first} for annotation, (first, last) in times.items()}


def _correlation(event: Event) -> object:
    """What joins a kernel and its launch; None when there is nothing."""
    arguments = event.get("args")
    number = arguments.get("correlation") if isinstance(arguments, dict) else None
    return number if isinstance(number, int | str) else None


def _own_traces(events: list[Event], path: Path) -> Iterator[tuple[Hashable, list[_Seen]]]:
    """What `pipesim.interop.chrome` writes: tokens as names, ranks as processes."""
    ranks: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if _TOKEN.match(event["name"]):
            ranks[str(event.get("pid"))].append({**event, "name": _PREFIX + event["name"]})
    for rank, own in ranks.items():
        yield rank, _seen(own, {}, path)


def _compute(name: str) -> Op | Pair | None:
    """The compute op or pair that an annotation names; None for everything else."""
    try:
        op = parse(name.removeprefix(_PREFIX))
    except (ProgramError, ValueError):
        return None
    first = op.first if isinstance(op, Pair) else op
    return op if first.kind.name in COMPUTE else None


def _seen(events: Iterable[Event], arrivals: dict[str, list[float]], path: Path) -> list[_Seen]:
    """Compute ops in order of time; an op starts when its message has arrived, a pair when its first one has."""
    found = []
    for event in sorted(events, key=lambda event: _times(event, path)):
        op = _compute(event["name"])
        if op is None:
            continue
        start, end = _times(event, path)
        arrived = [_next(arrivals.get(_receive_of(one))) for one in _ops(op)]
        start = min(max(start, arrived[0]), end)
        found.append(_Seen(op, start, end))
    return found


def _next(arrivals: list[float] | None) -> float:
    """When the next message of its kind arrived; long ago where none is known."""
    return arrivals.pop(0) if arrivals else -math.inf


def _receive_of(op: Op) -> str:
    return f"{op.stage}{'RECV_F' if op.kind.name == 'F' else 'RECV_B'}{op.microbatch}"


def _arrivals(events: list[Event]) -> dict[str, list[float]]:
    """When the receives that each RECV action posted were done, occurrence by occurrence."""
    posted = sorted((e for e in events if _RECEIVE.match(e["name"])), key=_start)
    done = sorted((e for e in events if _RECEIVED.match(e["name"])), key=_start)
    found: dict[str, list[float]] = defaultdict(list)
    at = 0
    for action in posted:
        first, last = _start(action), _start(action) + _length(action)
        while at < len(done) and _start(done[at]) < first:
            at += 1
        ends = []
        while at < len(done) and _start(done[at]) <= last:
            ends.append(_start(done[at]) + _length(done[at]))
            at += 1
        if ends:
            found[action["name"].removeprefix(_PREFIX)].append(max(ends))
    return found


def _start(event: Event) -> float:
    return _number(event.get("ts"))


def _length(event: Event) -> float:
    return _number(event.get("dur"))


def _number(value: object) -> float:
    """A time as a number; infinity when it is none, which `_times` refuses."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.inf
    return number if math.isfinite(number) else math.inf


def _times(event: Event, path: Path) -> tuple[float, float]:
    start, length = _start(event), _length(event)
    if not math.isfinite(start + length) or length < 0:
        found = f"ts {event.get('ts')!r}, dur {event.get('dur')!r}"
        raise TraceError(f"{path}: event {event['name']!r} has no usable time: {found}")
    return start, start + length


def _single_stage(ranks: Sequence[tuple[int, Path, list[Event]]]) -> dict[Hashable, list[_Seen]]:
    """Ranks of one stage each, whose annotations name only micro-batches."""
    processes: dict[Hashable, list[_Seen]] = {}
    for stage, (_, path, events) in enumerate(ranks):
        named = [event for event in events if _SINGLE.match(event["name"])]
        if not named:
            raise TraceError(f"{path}: {_NO_PIPELINE}")
        renamed = [{**event, "name": _renamed(event["name"], stage)} for event in named]
        processes[path] = _seen(renamed, {}, path)
    return processes


def _renamed(name: str, stage: int) -> str:
    match = _SINGLE.match(name)
    assert match is not None
    return f"{_PREFIX}{stage}{match[1][0]}{match[2]}"


def _observed(processes: dict[Hashable, list[_Seen]], bases: dict[Hashable, int]) -> Observation:
    """All processes on one clock, as one table."""
    work = {
        process: frozenset((one.stage, one.microbatch) for each in seen for one in _ops(each.op))
        for process, seen in processes.items()
    }
    rank_of, notes = pipeline_ranks(work)
    origin = min(bases.values())
    rows = [
        row
        for process, rank in rank_of.items()
        for row in _rows(rank, processes[process], (bases[process] - origin) / 1e9)
    ]
    names = ("rank", "kind", "stage", "microbatch", "start_s", "end_s", "pair")
    frame = pd.DataFrame(rows, columns=list(names)).assign(resource="compute")
    frame["step"] = occurrences(frame, ("rank", "kind", "stage", "microbatch"))
    frame, partial = whole_steps(frame)
    return finished(frame.assign(route=routes(frame)), [*notes, *partial])


def _rows(rank: int, seen: Sequence[_Seen], offset_s: float) -> Iterator[tuple[Any, ...]]:
    pairs = Counter[int]()
    for each in seen:
        ops = _ops(each.op)
        pair = pairs[rank] if len(ops) == 2 else -1
        pairs[rank] += len(ops) == 2
        for op in ops:
            start_s, end_s = each.start_us / 1e6 + offset_s, each.end_us / 1e6 + offset_s
            yield rank, op.kind.name, op.stage, op.microbatch, start_s, end_s, pair


def _ops(op: Op | Pair) -> tuple[Op, ...]:
    return (op.first, op.second) if isinstance(op, Pair) else (op,)
