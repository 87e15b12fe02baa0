"""Programs as schedule files of PyTorch's pipeline runtime, ``torch.distributed.pipelining``.

Two formats, both read by ``_PipelineScheduleRuntime._load_csv``: ``compute_only``, to which PyTorch adds
communication itself, and ``compute_comms``, which it runs as it is. Action names and what the runtime does
with each are those of pytorch/pytorch:torch/distributed/pipelining/schedules.py (2.13).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipesim.errors import PipesimError
from pipesim.ir.connect import connect
from pipesim.ir.graph import NO_MESSAGE, OpGraph
from pipesim.ir.op import Kind, Op
from pipesim.ir.program import Program
from pipesim.ir.replay import earliest_ends

_UNITS = {Kind.F: 1, Kind.I: 1, Kind.W: 1, Kind.B: 2}


def compute_only(program: Program) -> str:
    """One row of compute ops per rank.

    Raises:
        PipesimError: as `check`.
    """
    check(program)
    return program.to_csv()


def compute_comms(program: Program) -> str:
    """One row per rank with sends and receives between the compute ops, and the reduction of each stage's gradients.

    All ranks' rows follow one common order of events, that of a step in which F, I and W take one unit and
    transfers none: a send stands right after the op that made its data, its receive before the first op that
    its rank starts from then on. So receives from one rank come in the order of that rank's sends, which is
    how messages are matched, and blocking transfers cannot deadlock. Weights are gathered at the start of the
    step and dropped after the stage's last backward; without sharded data parallelism that does nothing.

    Raises:
        PipesimError: as `check`.
    """
    check(program)
    graph = connect(program)
    rows = [[f"{stage}UNSHARD" for stage in program.placement.stages_of(rank)] for rank in range(program.ranks)]
    for rank, action in _actions(program, graph):
        rows[rank].append(action)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


Format = Literal["torch-csv", "torch-csv-comms"]

FORMATS: dict[Format, Callable[[Program], str]] = {"torch-csv": compute_only, "torch-csv-comms": compute_comms}
"""What to call each format -> how a program is written in it."""

LOADED_AS: dict[Format, str] = {"torch-csv": "compute_only", "torch-csv-comms": "compute_comms"}
"""What ``_load_csv`` calls each format."""


def check(program: Program) -> None:
    """Refuse programs that PyTorch's runtime cannot run.

    Raises:
        PipesimError: the program has several routes, or optimizer steps between its micro-batches.
    """
    cannot = "PyTorch's pipeline runtime cannot run this schedule:"
    if program.placement.routes > 1:
        raise PipesimError(
            f"{cannot} it has {program.placement.routes} routes, "
            "so a stage lives on several ranks, and there each stage lives on exactly one"
        )
    if (program.kind > Kind.B).any():
        raise PipesimError(
            f"{cannot} it has optimizer steps between its micro-batches, and there the optimizer runs after all"
        )


class _Event(NamedTuple):
    """The start (phase 1) or end (phase 0) of the op or pair at ``node``; sorts in order of time."""

    time: int
    phase: int
    node: int


def _actions(program: Program, graph: OpGraph) -> Iterator[tuple[int, str]]:
    """Rank and action in the common order of events."""
    rank, messages = graph.rank, _Messages(graph)
    last = _last_backwards(program)
    tokens = [token for r in range(program.ranks) for token in _named(program, r)]
    for event in sorted(_events(graph)):
        here, node = int(rank[event.node]), event.node
        if event.phase:
            yield here, tokens[node]
            continue
        for done in (node, node + 1) if program.paired[node] else (node,):
            for source, send, target, receive in messages.of(done):
                yield source, send
                yield target, receive
            if done in last:
                yield here, f"{program.stage[done]}REDUCE_GRAD"
                yield here, f"{program.stage[done]}RESHARD"


def _named(program: Program, rank: int) -> Iterator[str]:
    """Tokens by position; the second op of a pair has none of its own."""
    for token in program.tokens(rank):
        if token.startswith("("):
            yield f"{token}OVERLAP_F_B"
            yield ""
        else:
            yield token


def _events(graph: OpGraph) -> Iterator[_Event]:
    duration = np.array([_UNITS[Kind(kind)] for kind in graph.kind.tolist()], np.int64)
    first = np.flatnonzero(graph.paired)
    duration[first] += duration[first + 1]
    duration[first + 1] = 0
    end = earliest_ends(graph, duration)
    for node in np.setdiff1d(np.arange(len(graph)), first + 1).tolist():
        yield _Event(int(end[node] - duration[node]), 1, node)
        yield _Event(int(end[node]), 0, node)


class _Messages:
    """What every op sends, and to whom."""

    def __init__(self, graph: OpGraph) -> None:
        consumer = np.repeat(np.arange(len(graph)), np.diff(graph.dep_starts))
        edges = np.flatnonzero(graph.dep_message != NO_MESSAGE)
        edges = edges[np.argsort(graph.dep_node[edges], kind="stable")]
        self._graph, self._rank = graph, graph.rank
        self._producer, self._consumer = graph.dep_node[edges], consumer[edges]

    def of(self, node: int) -> Iterator[tuple[int, str, int, str]]:
        """Sending rank and action, receiving rank and action."""
        op = self._graph.op(node)
        kinds, step = (("SEND_F", "RECV_F"), 1) if op.kind == Kind.F else (("SEND_B", "RECV_B"), -1)
        for i in range(*np.searchsorted(self._producer, [node, node + 1]).tolist()):
            target = int(self._rank[self._consumer[i]])
            send, receive = _action(op, kinds[0], 0), _action(op, kinds[1], step)
            yield int(self._rank[node]), send, target, receive


def _action(op: Op, kind: str, step: int) -> str:
    return f"{op.stage + step}{kind}{op.microbatch}"


def _last_backwards(program: Program) -> set[int]:
    """The op after which each stage's gradients are complete."""
    nodes: NDArray[np.int64] = np.flatnonzero(np.isin(program.kind, (Kind.B, Kind.W)))
    return set(dict(zip(program.stage[nodes].tolist(), nodes.tolist(), strict=True)).values())
