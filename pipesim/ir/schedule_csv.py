"""Reads the schedule CSV of ``torch.distributed.pipelining``: one row per rank, one cell per action.

Empty cells are idle slots. A compute-only file holds what `Program.to_csv` writes; in a ``compute_comms``
dump, communication and sharding actions lie between the compute ops, and are left out here because lowering
adds its own. Stages are numbered over the whole model, and a stage lives on the rank in whose row it occurs.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from pipesim.errors import ProgramError
from pipesim.ir.op import COMPUTE_KINDS, Op, Pair, parse
from pipesim.ir.placement import Placement
from pipesim.ir.program import Program

# Action names as in pytorch/pytorch:torch/distributed/pipelining/schedules.py.
_COMMUNICATION = re.compile(r"\d+(WAIT_)?((SEND|RECV)_[FB]|UNSHARD|RESHARD|REDUCE_GRAD)\d*$")
_LONGEST = 64
_AROUND = 3


def read_schedule_csv(text: str) -> Program:
    """The program that a PyTorch schedule CSV describes; placement and number of micro-batches follow from it.

    Not verified: `pipesim.ir.verify` is the next step.

    Raises:
        ProgramError: a cell is no action, a row has no compute ops, or a stage or micro-batch is skipped.
    """
    rows = _rows(text)
    orders = [_row_ops(rank, cells) for rank, cells in enumerate(rows)]
    for rank, order in enumerate(orders):
        if not order:
            raise ProgramError(f"row {rank + 1} (rank {rank}) has no compute ops; every row is a rank")
    _check_numbered("stage", (op.stage for op in _flat(orders)))
    _check_numbered("micro-batch", (op.microbatch for op in _flat(orders)))
    return Program.from_orders(_placement(orders), orders)


def _rows(text: str) -> list[list[str]]:
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text, newline=""))]
    except csv.Error as error:
        raise ProgramError(f"not a CSV file: {error}") from error
    while rows and not any(rows[-1]):
        rows.pop()
    if not rows:
        raise ProgramError("the file is empty; expected one row of ops per rank, such as 0F0,0F1,0B0,0B1")
    return rows


def _row_ops(rank: int, cells: Sequence[str]) -> list[Op | Pair]:
    return [
        _cell_op(rank, cells, position)
        for position, cell in enumerate(cells)
        if cell and not _COMMUNICATION.match(cell)
    ]


def _cell_op(rank: int, cells: Sequence[str], position: int) -> Op | Pair:
    cell = cells[position]
    try:
        if len(cell) > _LONGEST:
            raise ProgramError(f"{cell[:_LONGEST]!r}... is too long to be an op")
        item = parse(cell)
        for op in _ops(item):
            if op.kind not in COMPUTE_KINDS:
                kinds = " ".join(kind.name for kind in COMPUTE_KINDS)
                raise ProgramError(f"{cell!r} is no compute op; allowed kinds: {kinds}")
    except ProgramError as error:
        raise ProgramError(
            f"row {rank + 1}, cell {position + 1}: {error}\n{_picture(rank, cells, position)}"
        ) from error
    return item


def _picture(rank: int, cells: Sequence[str], position: int) -> str:
    """The cells around a bad one, with it marked."""
    first, last = max(0, position - _AROUND), min(len(cells), position + _AROUND + 1)
    shown = [f">{cells[i][:_LONGEST]}<" if i == position else cells[i][:_LONGEST] or "." for i in range(first, last)]
    head, tail = "... " if first else "", " ..." if last < len(cells) else ""
    return f"  rank {rank}, cell {position + 1}: {head}{' '.join(shown)}{tail}"


def _ops(item: Op | Pair) -> tuple[Op, ...]:
    return (item.first, item.second) if isinstance(item, Pair) else (item,)


def _flat(orders: Iterable[Iterable[Op | Pair]]) -> Iterable[Op]:
    return (op for order in orders for item in order for op in _ops(item))


def _check_numbered(what: str, numbers: Iterable[int]) -> None:
    """Stages and micro-batches count from 0 without gaps; also keeps a mistyped huge number from filling memory."""
    found = sorted(set(numbers))
    missing = next((expected for expected, number in enumerate(found) if number != expected), None)
    if missing is not None:
        raise ProgramError(
            f"{what} {missing} occurs nowhere, but {what} {found[missing]} does; "
            f"they must be numbered 0..{found[-1]} without gaps"
        )


def _placement(orders: Sequence[Iterable[Op | Pair]]) -> Placement:
    """Every stage on the rank that runs most of its ops; verification finds those that are elsewhere."""
    counts: dict[int, Counter[int]] = {}
    for rank, order in enumerate(orders):
        for op in _flat([order]):
            counts.setdefault(op.stage, Counter())[rank] += 1
    return Placement.of(len(orders), [counts[stage].most_common(1)[0][0] for stage in range(len(counts))])
