"""ZB-H1 and ZB-H2: the authors' orders, and the bubble rates that the paper prints."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from replay import costs, peak_in_flight, replay, spans

from pipesim.engine import compiled
from pipesim.ir.connect import connect
from pipesim.ir.op import Kind
from pipesim.ir.verify import verify
from pipesim.lowering.bind import bind
from pipesim.schedules import Setting, StepCosts, create

DATA = Path(__file__).parents[1] / "data" / "zero_bubble"
GOLDEN = sorted([*DATA.glob("*_zbh1.json"), *DATA.glob("*_zbh2.json")])
NAMES = {"1f1b": "1f1b", "1f1bI": "interleaved-1f1b", "zbh1": "zb-h1", "zbh2": "zb-h2"}


def rows(name):
    return list(csv.DictReader((DATA / f"{name}.csv").read_text().splitlines()))


HANDMADE = [row for row in rows("replays") if row["id"].rsplit("_", 1)[1] in NAMES]
PROFILES = {
    (row["table"], row["model"], int(row["m"])): [round(float(row[f"T_{op}_us"])) for op in ("F", "B", "W", "comm")]
    for row in rows("profiles")
}
"""Microseconds of one stage, and of one hop."""
LAYERS = {"1.5B": 24, "6.2B": 32, "14.6B": 48, "28.3B": 64}
"""Two more than the model has: the paper's 1F1B-I puts one of these on each chunk."""


def run(program, forward, input_grad, weight_grad, hop):
    """Replay a large program on the compiled engine, with integer costs."""
    verify(program)
    return compiled.run(bind(connect(program), costs(program, forward, input_grad, weight_grad, hop)))


@pytest.mark.parametrize("file", GOLDEN, ids=lambda f: f.stem)
def test_order_equals_the_authors(file):
    """Token for token what the definition of the paper and its script say."""
    golden = json.loads(file.read_text())
    program = create(NAMES[file.stem.rsplit("_", 1)[1]]).program(Setting(golden["p"], golden["m"]))
    for rank, order in enumerate(golden["orders"]):
        kinds_and_numbers = [(token[0].replace("B", "I"), token[1:]) for token in order.split()]
        assert program.tokens(rank) == [f"{rank}{kind}{number}" for kind, number in kinds_and_numbers]


def test_all_golden_data_is_there():
    """The parametrisations are not empty."""
    assert (len(GOLDEN), len(HANDMADE), len(PROFILES)) == (26, 141, 21)


@pytest.mark.parametrize("row", HANDMADE, ids=lambda r: r["id"])
def test_replay_of_the_same_order_elsewhere(row):
    """Makespan, longest span and activations per rank, as an independent evaluator finds them.

    The chunks of 1F1B-I take thirds and quarters of a microsecond; everything is scaled by 12 to whole numbers.
    """
    p, m, v = int(row["p"]), int(row["m"]), int(row["v"])
    options = {"chunks": v} if v > 1 else {}
    program = create(NAMES[row["id"].rsplit("_", 1)[1]], **options).program(Setting(p, m))
    times = [round(12 * float(row[name])) for name in ("T_F", "T_B", "T_W", "T_comm")]
    timeline = run(program, *times)
    assert timeline.makespan == round(12 * float(row["makespan_from_t0"]))
    assert max(spans(timeline)) == round(12 * float(row["cost_max_stage_span"]))
    assert peak_in_flight(program) == [int(n) for n in row["inflight_until_W_per_rank"].split()]
    if v == 1 and "1f1b" not in row["id"]:
        change = {Kind.F: float(row["dM_F"]), Kind.I: float(row["dM_B"]), Kind.W: float(row["dM_W"])}
        assert peaks(program, change) == [float(x) for x in row["peak_mem_per_rank"].split()]


def peaks(program, change):
    """Largest sum of memory changes per rank."""
    deltas = np.select([program.kind == kind for kind in change], list(change.values()))
    bounds = zip(program.starts, program.starts[1:], strict=False)
    return [np.cumsum(deltas[a:b]).max() for a, b in bounds]


@pytest.mark.parametrize("times", [(1, 1, 1), (20, 24, 12), (30, 40, 20), (5, 6, 4), (3, 2, 1)], ids=str)
@pytest.mark.parametrize(("p", "m"), [(1, 3), (2, 4), (3, 7), (4, 8), (5, 9), (8, 20)])
def test_table_2(p, m, times):
    """Bubble of the longest span, and activations of rank i: (P-i+1) M_B + (i-1) M_W, and twice that."""
    f, i, w = times
    for name, depth in (("zb-h1", 1), ("zb-h2", 2)):
        program = create(name).program(Setting(p, m))
        bubble = max(spans(replay(program, *times))) - m * (f + i + w)
        assert bubble == (p - 1) * max(0, f + i - depth * w)
        ahead = [depth * (p - 1 - r) for r in range(p)]
        expected = [(1 + ahead[r]) * 3 + depth * r * 2 for r in range(p)]
        assert peaks(program, {Kind.F: 3, Kind.I: -1, Kind.W: -2}) == expected


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 8), (8, 20)])
def test_zb_h2_with_transfers(p, m):
    """The authors' script asserts a bubble of (P-1)(F+I+2 hop-2W)."""
    timeline = replay(create("zb-h2").program(Setting(p, m)), 20, 24, 16, 2)
    assert max(spans(timeline)) - m * 60 == (p - 1) * (20 + 24 + 2 * 2 - 2 * 16)


@pytest.mark.parametrize("p", [2, 3, 4, 8, 32])
def test_few_microbatches(p):
    """Appendix H: up to P micro-batches take (M+P-1)(F+I)+W; 1F1B takes (M+P-1)(F+I+W)."""
    for m in {1, 2, p // 2, p - 1, p} - {0}:
        assert replay(create("zb-h1").program(Setting(p, m)), 3, 4, 2).makespan == (m + p - 1) * 7 + 2
        assert replay(create("1f1b").program(Setting(p, m)), 3, 4, 2).makespan == (m + p - 1) * 9


def test_theory_says_what_happens_for_all_costs_in_its_domain():
    """Bubble and peaks over a grid of costs and sizes, including more W than F and fewer micro-batches than ranks."""
    counted = 0
    for name in ("zb-h1", "zb-h2"):
        for p, m in [(1, 2), (2, 1), (2, 3), (3, 2), (3, 5), (4, 9), (5, 8)]:
            for times in np.ndindex(3, 3, 3):
                f, i, w = (int(t) + 1 for t in times)
                columns = [np.full(p, t) for t in (f, i, w)]
                setting = Setting(p, m, StepCosts(*columns, 0, np.ones(p), np.ones(p)))
                theory = create(name).theory(setting)
                if theory is None:
                    continue
                program = create(name).program(setting)
                busy, makespan = m * (f + i + w), replay(program, f, i, w).makespan
                # A rational number computed in floating point: a few units in the last place.
                assert theory.bubble_fraction == pytest.approx(1 - busy / makespan, abs=1e-12)
                assert list(theory.peak_in_flight) == peak_in_flight(program)
                counted += 1
    assert counted == 154


def rate(timeline, busy):
    """Bubble rate of the zero-bubble papers: idle share of the longest span."""
    cost = max(spans(timeline))
    return (cost - busy) / cost


def printed(table, method):
    return [row for row in rows(table) if row["method"] == method]


@pytest.mark.parametrize("table", ["table5", "table8"])
@pytest.mark.parametrize("method", ["1F1B", "ZB-H1", "ZB-H2"])
def test_published_bubble_rates(table, method):
    """Tables 5 and 8 of arXiv 2401.10241 to all printed digits."""
    chosen = printed(table, method)
    assert len(chosen) == {"table5": 12, "table8": 9}[table]
    for row in chosen:
        p, m = int(row["p"]), int(row["m"])
        f, i, w, hop = PROFILES[table, row["model"], m]
        timeline = run(create(method.lower()).program(Setting(p, m)), f, i, w, hop)
        assert rate(timeline, m * (f + i + w)) == pytest.approx(float(row["bubble_rate"]), abs=5e-5)


@pytest.mark.parametrize("table", ["table5", "table8"])
def test_published_bubble_rates_of_interleaved_1f1b(table):
    """The authors' script lets the wrap-around transfer wait for one micro-batch in P only: P hops too little.

    With every dependency kept, subtracting those hops gives what is printed.
    """
    chosen = printed(table, "1F1B-I")
    assert len(chosen) == {"table5": 12, "table8": 9}[table]
    for row in chosen:
        p, m = int(row["p"]), int(row["m"])
        times = np.array(PROFILES[table, row["model"], m])
        v = LAYERS[row["model"]] // p
        program = create("interleaved-1f1b", chunks=v).program(Setting(p, m))
        # A chunk takes 1/V of a stage; scaled so that it takes a whole number.
        timeline = run(program, *times[:3], times[3] * v)
        cost, busy = max(spans(timeline)), m * v * times[:3].sum()
        without = cost - p * v * times[3]
        assert (without - busy) / without == pytest.approx(float(row["bubble_rate"]), abs=5e-5)
        assert cost > without


def test_the_optimizer_can_be_post_validated():
    """The option decides whether ranks wait for each other before the optimizer step."""
    for name in ("zb-h1", "zb-h2"):
        assert create(name).synchronous_optimizer
        assert not create(name, optimizer="post-validated").synchronous_optimizer
