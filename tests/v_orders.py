"""Golden orders and settings of schedules on the V placement. Shared by tests."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from pipesim.schedules import Setting, StepCosts

DATA = Path(__file__).parent / "data" / "zero_bubble_v"


def rows(name: str, schedule: str = "") -> list[dict[str, str]]:
    """Rows of a table, of one schedule (the end of their id) or all."""
    with (DATA / name).open() as lines:
        return [row for row in csv.DictReader(lines) if row.get("id", "").endswith(schedule)]


def golden(pattern: str) -> list[dict]:
    """Golden orders by file name."""
    return [json.loads(file.read_text()) for file in sorted(DATA.glob(pattern))]


def tokens(order: dict) -> list[list[str]]:
    """The tokens of every rank, with stages in model order and I for the input gradient."""
    return [[_token(t, rank, order["p"]) for t in row.split()] for rank, row in enumerate(order["orders"])]


def _token(text: str, rank: int, ranks: int) -> str:
    head, microbatch = text.split(".")
    kind = "I" if head[0] == "B" else head[0]
    return f"{2 * ranks - 1 - rank if head[1] == '1' else rank}{kind}{microbatch}"


def setting(p, m, f=1, i=1, w=1, hop=0, weight_share=1.0):
    """The same costs for every stage; W keeps ``weight_share`` of the activations."""
    times = [np.full(2 * p, x, np.int64) for x in (f, i, w)]
    return Setting(p, m, StepCosts(*times, int(hop), np.ones(2 * p), np.full(2 * p, float(weight_share))))


def doubled(row: dict[str, str]) -> tuple[int, int, int, int]:
    """Twice F, I, W and hop of a row, so that its halves are integers too."""
    return tuple(round(2 * float(row[x])) for x in ("T_F", "T_B", "T_W", "T_comm"))


def of_file(order: dict) -> Setting:
    """The setting that a golden order was made for."""
    f, i, w, hop = (round(2 * order["cost"][x]) for x in ("F", "B", "W", "comm"))
    return setting(order["p"], order["m"], f, i, w, hop, -order["dM"]["W"] / order["dM"]["F"])
