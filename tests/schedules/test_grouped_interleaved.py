"""GIS and GIS-H: the orders of the released scheduler, and Table 1 of the PipeOffload paper."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from replay import idle, peak_in_flight, replay, spans

from pipesim.errors import ScheduleError
from pipesim.schedules import Setting, StepCosts, create

DATA = Path(__file__).parents[1] / "data" / "grouped_interleaved"
GOLDEN = sorted(DATA.glob("gi_*.json"))
ROWS = list(csv.DictReader((DATA / "gis.csv").read_text().splitlines()))


def setting(p, m, v, f, i, w):
    """A setting with the same integer costs for every stage."""
    times = [np.full(p * v, x) for x in (f, i, w)]
    return Setting(p, m, StepCosts(*times, 0, np.ones(p * v), np.ones(p * v)))


def ours(golden: str, rank: int, ranks: int) -> str:
    kind, chunk, microbatch = re.fullmatch(r"([FBW])(\d+)\.(\d+)", golden).groups()
    return f"{int(chunk) * ranks + rank}{'I' if kind == 'B' else kind}{microbatch}"


@pytest.mark.parametrize("file", GOLDEN, ids=lambda f: f.stem)
def test_order_equals_the_released_scheduler(file):
    """Token for token, for groups of P (GIS), of P/2 (GIS-H) and of one micro-batch."""
    golden = json.loads(file.read_text())
    p, m, v, group = golden["p"], golden["m"], golden["v"], int(file.stem.split("_g")[1])
    program = create("gis", chunks=v, group_size=group).program(Setting(p, m))
    for rank, row in enumerate(golden["orders"]):
        assert program.tokens(rank) == [ours(t, rank, p) for t in row.split()]


def test_all_golden_files_are_there():
    """The parametrisations are not empty."""
    assert (len(GOLDEN), len(ROWS)) == (13, 30)


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r["id"])
def test_makespan_span_and_peaks_of_unit_costs(row):
    """As the released scheduler's own programs replay."""
    p, m, v, group = (int(x) for x in (row["p"], row["m"], row["v"], row["id"].rsplit("_g")[1]))
    program = create("gis-h", chunks=v, group_size=group).program(Setting(p, m))
    timeline = replay(program)
    assert timeline.makespan == float(row["makespan_from_t0"])
    assert max(spans(timeline)) == float(row["cost_max_stage_span"])
    assert peak_in_flight(program) == [int(n) for n in row["inflight_until_W_per_rank"].split()]


@pytest.mark.parametrize(
    ("d", "m", "v", "gis", "gis_h"),
    [
        (4, 8, 2, (6, 8), (8, 6)),
        (4, 12, 3, (6, 12), (10, 8)),
        (8, 16, 2, (14, 16), (18, 12)),
        (8, 24, 3, (14, 24), (22, 16)),
        (8, 32, 4, (14, 32), (26, 20)),
        (8, 16, 5, (14, 40), (30, 24)),
        (16, 32, 2, (30, 32), (38, 24)),
        (16, 32, 3, (30, 48), (46, 32)),
    ],
)
def test_table_1(d, m, v, gis, gis_h):
    """Bubble and peak, in chunks, of both variants at F = I = W = 1: arXiv 2503.01328, Table 1."""
    for name, (bubble, peak) in (("gis", gis), ("gis-h", gis_h)):
        program = create(name, chunks=v).program(Setting(d, m))
        assert idle(replay(program)) == [bubble] * d
        assert max(peak_in_flight(program)) == peak


@pytest.mark.parametrize("costs", [(1, 1, 1), (2, 3, 2), (3, 4, 1), (3, 2, 2), (2, 2, 1)])
def test_theory_is_what_the_replay_shows(costs):
    """Wherever `theory` speaks, bubble fraction and peaks are those of the replay."""
    spoke = 0
    for p, v, m in [(1, 2, 2), (2, 2, 4), (3, 2, 6), (3, 3, 8), (4, 3, 8), (5, 2, 12), (6, 2, 12), (8, 2, 16)]:
        for group in range(1, p + 1):
            schedule = create("gis", chunks=v, group_size=group)
            theory = schedule.theory(setting(p, m, v, *costs))
            if theory is None:
                continue
            spoke += 1
            program = schedule.program(Setting(p, m))
            timeline = replay(program, *costs)
            # Rational numbers computed in floating point: a few units in the last place.
            assert theory.bubble_fraction == pytest.approx(max(idle(timeline)) / timeline.makespan, rel=1e-12)
            assert [x * v for x in theory.peak_in_flight] == peak_in_flight(program)
    assert spoke >= 10


def test_odd_ranks_idle_less_than_table_1():
    """Table 1 has (V-1) P/2 (F+I-W) for groups of P/2; with 3 ranks and groups of 2 it is less than that."""
    program = create("gis-h", chunks=2).program(Setting(3, 8))
    assert max(idle(replay(program, 2, 3, 2))) == 12 < 2 * (2 + 3) + 3 / 2 * (2 + 3 - 2)


@pytest.mark.parametrize(("costs", "group"), [((1, 1, 1), 4), ((1, 2, 1), 4), ((1, 3, 1), 5), ((1, 9, 1), 7)])
def test_dominant_backwards_need_larger_groups(costs, group):
    """GIS-H groups grow beyond P/2 so that a group's work covers P input gradients."""
    assert create("gis-h", chunks=2).group(setting(8, 16, 2, *costs)) == group


@pytest.mark.parametrize("name", ["gis", "gis-h"])
@pytest.mark.parametrize(
    ("p", "m", "v"), [(1, 3, 2), (2, 1, 3), (3, 7, 2), (4, 2, 2), (5, 9, 3), (6, 5, 1), (7, 15, 2)]
)
def test_awkward_sizes_run(name, p, m, v):
    """Few micro-batches, odd ranks, broken groups and a single chunk verify and replay without deadlock."""
    timeline = replay(create(name, chunks=v).program(Setting(p, m)), 2, 3, 2)
    assert min(idle(timeline)) == timeline.makespan - 7 * m * v >= 0


@pytest.mark.parametrize("name", ["gis", "gis-h"])
def test_groups_are_no_larger_than_the_ranks(name):
    """The error says what would do, and that does."""
    with pytest.raises(ScheduleError, match="between 1 and P = 4, found 5"):
        create(name, group_size=5).program(Setting(4, 8))
    replay(create(name, group_size=4).program(Setting(4, 8)))
