"""DualPipe and DualPipeV: the orders of the released code, its figures, and its formula where that holds."""

from __future__ import annotations

import csv
import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from replay import idle, peak_in_flight, replay

from pipesim.errors import ScheduleError
from pipesim.ir.program import Program
from pipesim.schedules import Setting, StepCosts, create
from pipesim.schedules.dualpipe import published_bubble

DATA = Path(__file__).parents[1] / "data"
GOLDEN = sorted((DATA / "dualpipe").glob("*.json"))
TORCH = sorted((DATA / "torch").glob("DualPipeV_*.csv"))
ROWS = list(csv.DictReader((DATA / "dualpipe" / "dualpipe.csv").read_text().splitlines()))
NAMES = {"DualPipe": "dualpipe", "DualPipeV": "dualpipe-v"}
STAGES = {"dualpipe": 1, "dualpipe-v": 2}
KINDS = {"F": "F", "BW": "B", "Bi": "I", "W": "W"}


def token(golden: str, rank: int, ranks: int, half: int | None) -> str:
    """A token of the golden files as ours; ``half`` is M/2 for two directions, None for two chunks."""
    if "+" in golden:
        first, second = golden.split("+")
        return f"({token(first, rank, ranks, half)};{token(second, rank, ranks, half)})"
    kind, stream, k = re.fullmatch(r"([A-Za-z]+)([01])\.(\d+)", golden).groups()
    last = ranks - 1 if half is not None else 2 * ranks - 1
    stage = rank if stream == "0" else last - rank
    return f"{stage}{KINDS[kind]}{int(k) + (half or 0) * int(stream)}"


def load(file: Path) -> tuple[dict, Program]:
    golden = json.loads(file.read_text())
    program = create(NAMES[golden["schedule"]]).program(Setting(golden["p"], golden["m_total"]))
    return golden, program


@pytest.mark.parametrize("file", GOLDEN, ids=lambda f: f.stem)
def test_order_equals_the_released_code(file):
    """Every rank runs the ops and overlapped pairs of DeepSeek's step function, in its order."""
    golden, program = load(file)
    half = golden["m_total"] // 2 if golden["schedule"] == "DualPipe" else None
    for rank, expected in enumerate(golden["orders"]):
        assert program.tokens(rank) == [token(t, rank, golden["p"], half) for t in expected]


@pytest.mark.parametrize("file", GOLDEN, ids=lambda f: f.stem)
def test_sends_of_the_released_code_delay_three_ops_per_rank(file):
    """With its later sends the last W, F and the first pair after the warm-up start one F later, nothing else."""
    golden, program = load(file)
    start, p = replay(program).start, golden["p"]
    middle = {p // 2 - 1, p // 2} if golden["schedule"] == "DualPipe" else {p - 1}
    for rank, theirs in enumerate(golden["start"]):
        mine = slice(program.starts[rank], program.starts[rank + 1])
        own_start = start[mine][~np.roll(program.paired[mine], 1)]  # a pair starts when its first op does
        delays = np.array(theirs, int) - own_start
        late = [re.sub(r"\d", "", t) for t, delay in zip(program.tokens(rank), delays, strict=True) if delay]
        assert late == ([] if rank in middle else ["W", "F", "(F;B)"])
        assert set(delays) <= {0, 1}


@pytest.mark.parametrize("file", TORCH, ids=lambda f: f.stem)
def test_dualpipe_v_equals_pytorchs(file):
    """Token for token the schedule that PyTorch's ScheduleDualPipeV builds."""
    p, m = map(int, re.match(r"DualPipeV_p(\d+)_m(\d+)", file.stem).groups())
    assert create("dualpipe-v").program(Setting(p, m)).to_csv() == file.read_text()


def test_all_golden_files_are_there():
    """The parametrisations above are not empty."""
    assert (len(GOLDEN), len(TORCH), len(ROWS)) == (6, 5, 40)


@pytest.mark.parametrize(("name", "p", "m"), [("dualpipe", 8, 20), ("dualpipe-v", 4, 10)])
def test_figures_take_66_units(name, p, m):
    """images/dualpipe.png and images/dualpipev.png: 66 columns, 6 of them idle on every rank."""
    timeline = replay(create(name).program(Setting(p, m)))
    assert timeline.makespan == 66
    assert idle(timeline) == [6] * p


@pytest.mark.parametrize("p", range(2, 17, 2))
def test_idle_time_does_not_depend_on_the_micro_batches(p):
    """DualPipe idles P-2 ops and holds P+1 activations on every rank; DualPipeV 2P-2 and 2P+1 of half the size."""
    for m in (2 * p, 2 * p + 2, 4 * p):
        down_and_up, vee = (create(name).program(Setting(p, m)) for name in ("dualpipe", "dualpipe-v"))
        assert idle(replay(down_and_up)) == [p - 2] * p
        assert peak_in_flight(down_and_up) == [p + 1] * p
        assert idle(replay(vee)) == [2 * p - 2] * p
        assert peak_in_flight(vee) == [2 * p + 1] * p


@pytest.mark.parametrize("p", [1, 3, 5, 7])
def test_the_v_needs_no_even_numbers(p):
    """Any number of ranks and any M from 2 P will do for DualPipeV, with the same idle time and peak."""
    program = create("dualpipe-v").program(Setting(p, 2 * p + 1))
    assert idle(replay(program)) == [2 * p - 2] * p
    assert peak_in_flight(program) == [2 * p + 1] * p


@pytest.mark.parametrize("row", ROWS, ids=lambda r: "-".join(r[k] for k in ("schedule", "p_ranks", "m", "T_B_input")))
def test_makespans_for_other_costs(row):
    """Makespan, idle time and peak for F, I, W of several ratios, and what the README's formula says."""
    p, m, f, i, w = (int(row[k]) for k in ("p_ranks", "m", "T_F", "T_B_input", "T_W"))
    program = create(NAMES[row["schedule"]]).program(Setting(p, m))
    timeline = replay(program, f, i, w)
    assert timeline.makespan == float(row["makespan"])
    assert idle(timeline) == [float(row["bubble"])] * p
    assert max(peak_in_flight(program)) == int(row["peak_chunk_activations"])
    assert published_bubble(int(row["PP_stages"]), f, i, w) == float(row["readme_formula"])


@pytest.mark.parametrize("name", ["dualpipe", "dualpipe-v"])
@pytest.mark.parametrize("p", [2, 4, 6])
def test_published_formula_and_what_the_replay_says(name, p):
    """Exact for F = I >= W; for I > F replays idle min(F, (PP/2-1)(I-F)) less, for F > I never less."""
    stages = STAGES[name] * p
    program = create(name).program(Setting(p, 2 * p + 2))
    for f, i, w in product((1, 2, 5), (1, 2, 3, 5, 8), (1, 2, 5)):
        if w > i:
            continue
        published, found = published_bubble(stages, f, i, w), idle(replay(program, f, i, w))
        if i >= f:
            assert found == [published - min(f, (stages // 2 - 1) * (i - f))] * p
        else:
            assert min(found) >= published


@pytest.mark.parametrize(("f", "i", "w"), [(1, 1, 1), (2, 3, 2), (36, 59, 35)])
@pytest.mark.parametrize("name", ["dualpipe", "dualpipe-v"])
def test_theory_is_what_the_replay_shows(name, f, i, w):
    """Bubble fraction and peaks of `theory` for equal stages."""
    p, m, chunks = 6, 14, STAGES[name]
    program = create(name).program(Setting(p, m))
    stage_costs = [np.full(p * chunks, x) for x in (f, i, w)]
    costs = StepCosts(*stage_costs, 0, np.ones(p * chunks), np.ones(p * chunks))
    theory = create(name).theory(Setting(p, m, costs))
    timeline = replay(program, f, i, w)
    # Rational numbers computed in floating point: a few units in the last place.
    assert theory.bubble_fraction == pytest.approx(idle(timeline)[0] / timeline.makespan, rel=1e-12)
    assert theory.peak_in_flight == [peak / chunks for peak in peak_in_flight(program)]


def test_a_faster_pair_shortens_the_step():
    """Pairs take pair_factor (F + B); at 0.5, rank 0 of this example saves half of its busy paired time."""
    program = create("dualpipe").program(Setting(4, 8))
    whole, half = (replay(program, 2, 2, 2, pair_factor=x) for x in (1.0, 0.5))
    pairs = int(program.paired[: program.starts[1]].sum())
    busy = [int(t.graph.duration[: program.starts[1]].sum()) for t in (whole, half)]
    assert busy[0] - busy[1] == 3 * pairs
    assert half.makespan < whole.makespan


@pytest.mark.parametrize(
    ("name", "p", "m", "numbers"),
    [
        ("dualpipe", 3, 12, [(2, 12), (4, 12)]),
        ("dualpipe", 1, 12, [(2, 12)]),
        ("dualpipe", 4, 7, [(4, 8)]),
        ("dualpipe", 4, 9, [(4, 8), (4, 10)]),
        ("dualpipe-v", 4, 7, [(4, 8)]),
    ],
)
def test_errors_name_numbers_that_do(name, p, m, numbers):
    """What the message proposes runs."""
    with pytest.raises(ScheduleError) as error:
        create(name).program(Setting(p, m))
    for ranks, microbatches in numbers:
        assert str(ranks if ranks != p else microbatches) in str(error.value).split("; use ")[1]
        replay(create(name).program(Setting(ranks, microbatches)))
