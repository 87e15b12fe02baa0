"""Read op orders of bidirectional schedules from tests/data, and run schedules with costs. Shared by tests."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
from replay import replay

from pipesim.ir.program import Program
from pipesim.ir.timeline import Timeline
from pipesim.schedules.base import Setting, StepCosts

DATA = Path(__file__).parent / "data"
STAGE_COLUMNS = ("stage", "chunk_stage_0_to_2D-1")


def rows(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header."""
    with file.open() as lines:
        return list(csv.DictReader(lines))


def size(file: Path) -> tuple[int, int]:
    """Ranks and micro-batches, from a file name such as code_D4_N8.csv."""
    ranks, microbatches = re.search(r"D(\d+)_N(\d+)", file.stem).groups()
    return int(ranks), int(microbatches)


def pairs(file: Path) -> int:
    """Pairs of pipes, from a file name such as multi_pipe_f2_D8_N8.csv; one where it names none."""
    found = re.search(r"_f(\d+)_", file.stem)
    return int(found[1]) if found else 1


def compute(file: Path) -> list[dict[str, str]]:
    """The F and B rows, rank by rank in order."""
    return [row for row in rows(file) if row["op"] != "S"]


def tokens(file: Path) -> list[list[str]]:
    """One list of tokens per rank."""
    ranks, _ = size(file)
    order: list[list[str]] = [[] for _ in range(ranks)]
    for row in compute(file):
        stage = next(row[column] for column in STAGE_COLUMNS if column in row)
        order[int(row["device"])].append(f"{stage}{row['op']}{row['mb_global']}")
    return order


def all_tokens(program: Program) -> list[list[str]]:
    """One list of tokens per rank."""
    return [program.tokens(rank) for rank in range(program.ranks)]


def run(program: Program, forward: int, backward: int, hop: int = 0) -> Timeline:
    """Replay with one forward and one (undivided) backward time for all stages."""
    return replay(program, forward, backward, 0, hop)


def setting(ranks: int, microbatches: int, stages: int, forward: int, backward: int) -> Setting:
    """A setting whose stages all take ``forward`` and, half for the input, ``backward``."""
    one = np.ones(stages, np.int64)
    half = backward // 2
    costs = StepCosts(forward * one, half * one, (backward - half) * one, 0, np.ones(stages), np.ones(stages))
    return Setting(ranks, microbatches, costs)
