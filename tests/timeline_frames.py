"""Data frames of timelines and memory, built from replays; shared by the tests of reports and exports."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
from replay import replay

from pipesim.ir.op import Kind
from pipesim.ir.placement import Placement, looped, vee
from pipesim.ir.program import Program
from pipesim.ir.timeline import Timeline
from pipesim.schedules import Setting, create

TORCH = Path(__file__).parent / "data" / "torch"


def frame_of(timeline: Timeline, scale: float = 1e-3, route_of=None) -> pd.DataFrame:
    """One row per op; one engine tick is ``scale`` seconds. Ops of a pair share the pair's interval."""
    graph = timeline.graph
    start, end = timeline.start.copy(), timeline.end.copy()
    pair = np.full(len(graph), -1)
    first = np.flatnonzero(graph.paired)
    pair[first] = pair[first + 1] = np.arange(len(first))
    start[first + 1], end[first + 1] = start[first], end[first]
    names = [graph.streams[i].name for i in graph.stream]
    return pd.DataFrame(
        {
            "rank": graph.rank,
            "resource": names,
            "kind": [Kind(k).name for k in graph.kind],
            "stage": graph.stage,
            "microbatch": graph.microbatch,
            "route": 0 if route_of is None else np.asarray(route_of)[graph.microbatch],
            "start_s": start * scale,
            "end_s": end * scale,
            "pair": pair,
        }
    )


def run(name: str, ranks: int, microbatches: int, *, times=(2, 2, 2), hop=0, **options) -> pd.DataFrame:
    """The frame of a schedule of this project, replayed with (F, I, W) times."""
    program = create(name, **options).program(Setting(ranks, microbatches))
    return frame_of(replay(program, *times, hop=hop))


def run_torch(file: str, ranks: int, *, v_shape=False, times=(2, 2, 2)) -> pd.DataFrame:
    """The frame of one of PyTorch's schedules with two chunks per rank."""
    with (TORCH / file).open() as rows:
        orders = [[token for token in row if token] for row in csv.reader(rows)]
    placement = vee(ranks) if v_shape else looped(ranks, 2)
    return frame_of(replay(Program.from_orders(placement, orders), *times))


def run_two_routes(ranks: int, microbatches: int) -> pd.DataFrame:
    """GPipe down the ranks for even micro-batches, up for odd ones."""
    placement = Placement.of(ranks, [range(ranks), range(ranks - 1, -1, -1)])
    routes = np.arange(microbatches) % 2
    down = range(0, microbatches, 2)
    up = range(1, microbatches, 2)
    orders = []
    for rank in range(ranks):
        early, late = (down, up) if rank < ranks / 2 else (up, down)
        stage = {0: rank, 1: ranks - 1 - rank}
        forwards = [(stage[m % 2], Kind.F, m) for m in [*early, *late]]
        backwards = [(stage[m % 2], Kind.B, m) for m in [*late, *early]]
        orders.append(forwards + backwards)
    program = Program.from_orders(placement, orders, routes)
    return frame_of(replay(program, 2, 2, 2), route_of=routes)


def with_communication(frame: pd.DataFrame, hop_s: float = 0.4e-3) -> pd.DataFrame:
    """The same frame with a send stream, a gradient reduction per rank and the optimizer step."""
    sends = frame[frame.kind.isin(["F", "B"])].copy()
    last = sends.stage.max()
    sends = sends[~((sends.kind == "F") & (sends.stage == last)) & ~((sends.kind == "B") & (sends.stage == 0))]
    sends["start_s"] = sends.end_s
    sends["end_s"] = sends.start_s + hop_s
    sends["resource"] = "p2p-send"
    sends["kind"] = "SEND_" + sends.kind
    extra = []
    for rank, end in frame.groupby("rank").end_s.max().items():
        row = {"rank": rank, "stage": rank, "microbatch": -1, "route": 0, "pair": -1}
        extra.append({**row, "resource": "collective", "kind": "REDUCE_GRAD", "start_s": end, "end_s": end + 4e-3})
        extra.append({**row, "resource": "compute", "kind": "OPT", "start_s": end + 4e-3, "end_s": end + 5e-3})
    return pd.concat([frame, sends, pd.DataFrame(extra)], ignore_index=True)


def memory_of(frame: pd.DataFrame, activation_bytes: float = 4e9, static_bytes: float = 30e9) -> pd.DataFrame:
    """Step curves: constant weights, gradients and optimizer states; activations from F until B or W."""
    rows = []
    for rank, ops in frame[frame.resource == "compute"].groupby("rank"):
        for category, part in (("weights", 0.25), ("gradients", 0.25), ("optimizer", 0.5)):
            rows.append((rank, 0.0, category, static_bytes * part))
        starts = ops[ops.kind == "F"].start_s
        ends = ops[ops.kind.isin(["B", "W"])].end_s
        changes = sorted([(t, 1) for t in starts] + [(t, -1) for t in ends])
        held = 0
        rows.append((rank, 0.0, "activations", 0.0))
        for time, change in changes:
            held += change
            rows.append((rank, time, "activations", held * activation_bytes))
    return pd.DataFrame(rows, columns=["rank", "time_s", "category", "bytes"])
