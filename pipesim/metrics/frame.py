"""Timelines as pandas tables: one row per op and per transfer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipesim.costs.costs import Costs
from pipesim.ir.graph import NO_MESSAGE, OpGraph
from pipesim.ir.op import Kind, is_any
from pipesim.ir.timeline import PICOSECONDS, Timeline
from pipesim.lowering.memory import activation_effects
from pipesim.metrics.gaps import NOTHING
from pipesim.metrics.idle import Cause, Idle, idle
from pipesim.metrics.memory import curve, measure

if TYPE_CHECKING:
    import pandas as pd

TRANSFERS = ("SEND_F", "SEND_B")
EXCHANGES = (Kind.SEND_F, Kind.RECV_F, Kind.SEND_B, Kind.RECV_B)
"""Blocking transfers, on the compute streams of both their ends."""


def timeline_frame(timeline: Timeline) -> pd.DataFrame:
    """Columns rank, resource, kind, stage, microbatch, route, start_s, end_s, pair.

    Ops first, stream by stream; then transfers that run beside the compute streams, as sends on their sender.
    ``pair`` numbers overlapped pairs, whose two ops share start and end; -1 elsewhere.
    """
    import pandas as pd

    table = pd.concat([_ops(timeline), _transfers(timeline)], ignore_index=True)
    categories = [k.name for k in Kind]
    table["kind"] = pd.Categorical(table["kind"], categories=categories)
    table["resource"] = pd.Categorical(table["resource"])
    return table


def _ops(timeline: Timeline) -> pd.DataFrame:
    import pandas as pd

    graph = timeline.graph
    start, end = timeline.start.copy(), timeline.end
    first = np.flatnonzero(graph.paired)
    start[first + 1] = start[first]
    pair = np.full(len(graph), -1, np.int64)
    pair[first] = pair[first + 1] = np.arange(len(first))
    _stretch_exchanges(timeline, start)
    names = np.array([k.name for k in Kind])
    return pd.DataFrame(
        {
            "rank": graph.rank,
            "resource": np.repeat([s.name for s in graph.streams], np.diff(graph.starts)),
            "kind": names[graph.kind],
            "stage": graph.stage,
            "microbatch": graph.microbatch,
            "route": _routes(graph),
            "start_s": start / PICOSECONDS,
            "end_s": end / PICOSECONDS,
            "pair": pair,
        }
    )


def _stretch_exchanges(timeline: Timeline, start: np.ndarray) -> None:
    """A blocking transfer holds its stream from the end of the op before it; its node only marks the end."""
    kind = timeline.graph.kind
    nodes = np.flatnonzero((kind >= Kind.SEND_F) & (kind <= Kind.RECV_B))
    inner = nodes[~np.isin(nodes, timeline.graph.starts)]
    start[inner] = timeline.end[inner - 1]


def _routes(graph: OpGraph) -> np.ndarray:
    known = (graph.microbatch >= 0) & (graph.kind <= Kind.RECV_B)
    safe = np.where(known, graph.microbatch, 0)
    return np.where(known, graph.route_of[safe], -1) if graph.microbatches else np.full(len(graph), -1)


def _transfers(timeline: Timeline) -> pd.DataFrame:
    """One row per transfer beside the compute streams, from the producer's end to its arrival."""
    import pandas as pd

    graph = timeline.graph
    consumer = np.repeat(np.arange(len(graph)), np.diff(graph.dep_starts))
    blocking = (graph.kind[consumer] >= Kind.SEND_F) & (graph.kind[consumer] <= Kind.RECV_B)
    edge = np.flatnonzero((graph.dep_message != NO_MESSAGE) & ~blocking)
    producer = graph.dep_node[edge]
    start = timeline.end[producer]
    sends_forward = graph.kind[producer] == Kind.F
    return pd.DataFrame(
        {
            "rank": graph.rank[producer],
            "resource": "p2p",
            "kind": np.where(sends_forward, *TRANSFERS),
            "stage": graph.stage[producer],
            "microbatch": graph.microbatch[producer],
            "route": _routes(graph)[producer],
            "start_s": start / PICOSECONDS,
            "end_s": timeline.arrival[edge] / PICOSECONDS,
            "pair": -1,
        }
    )


def idle_frame(timeline: Timeline) -> pd.DataFrame:
    """Columns rank, start_s, end_s, cause, waiting_for, on_rank: every idle interval of the compute streams.

    ``waiting_for`` is the token of the op or transfer that the rank waits for, ``on_rank`` who runs or sends it.
    """
    import pandas as pd

    found = idle(timeline)
    names = np.array([cause.name.lower() for cause in Cause])
    op, rank = _awaited(timeline.graph, found)
    return pd.DataFrame(
        {
            "rank": found.rank,
            "start_s": found.begin / PICOSECONDS,
            "end_s": found.end / PICOSECONDS,
            "cause": pd.Categorical(names[found.cause], categories=names.tolist()),
            "waiting_for": _tokens(*op),
            "on_rank": rank,
        }
    )


Columns = tuple[np.ndarray, np.ndarray, np.ndarray]


def _awaited(graph: OpGraph, found: Idle) -> tuple[Columns, np.ndarray]:
    """Stage, kind and micro-batch of what each interval waits for, and whose it is."""
    travels = np.flatnonzero(found.edge != NOTHING)
    node, edge = found.node.copy(), found.edge[travels]
    node[travels] = graph.dep_node[edge]
    stage, kind, microbatch = graph.stage[node], graph.kind[node], graph.microbatch[node]
    rank = graph.rank[node]
    kind[travels] = np.where(kind[travels] == Kind.F, Kind.SEND_F, Kind.SEND_B)
    consumer = graph.dep_starts.searchsorted(edge, side="right") - 1
    meets = is_any(graph.kind[consumer], EXCHANGES)
    own, travels = consumer[meets], travels[meets]
    stage[travels], kind[travels], microbatch[travels] = graph.stage[own], graph.kind[own], graph.microbatch[own]
    rank[travels] = _partners(graph, own)
    return (stage, kind, microbatch), rank


def _partners(graph: OpGraph, node: np.ndarray) -> np.ndarray:
    """Whom blocking transfers are exchanged with."""
    up = is_any(graph.kind[node], (Kind.SEND_F, Kind.RECV_B))
    route = graph.route_of[graph.microbatch[node]]
    partners: np.ndarray = graph.placement.rank_of[route, graph.stage[node] + np.where(up, 1, -1)]
    return partners


def _tokens(stage: np.ndarray, kind: np.ndarray, microbatch: np.ndarray) -> list[str]:
    """What ops are called; those without a micro-batch have none in their names."""
    names = [each.name for each in Kind]
    columns = zip(stage.tolist(), kind.tolist(), microbatch.tolist(), strict=True)
    return [f"{s}{names[k]}{'' if m < 0 else m}" if s >= 0 else names[k] for s, k, m in columns]


def memory_frame(timeline: Timeline, costs: Costs) -> pd.DataFrame:
    """Columns rank, time_s, category, bytes: step curves, each value holding from its time on.

    Weights, gradients, optimizer and buffers are constant; activations follow the ops.
    """
    import pandas as pd

    fixed, _ = measure(timeline, costs)
    effects = activation_effects(timeline.graph, costs.sizes, costs.variants)
    begin = int(timeline.start.min()) / PICOSECONDS if len(timeline.start) else 0.0
    rows = []
    for rank in range(timeline.graph.ranks):
        for name in ("weights", "gradients", "optimizer", "buffers"):
            held = [float(getattr(fixed, name)[rank])]
            rows.append(pd.DataFrame({"rank": rank, "time_s": [begin], "category": name, "bytes": held}))
        moments, level = curve(timeline, effects, rank)
        rows.append(pd.DataFrame({"rank": rank, "time_s": moments, "category": "activations", "bytes": level}))
    return pd.concat(rows, ignore_index=True)
