"""Chimera equals the authors' generators op for op, and its closed forms are exact."""

from __future__ import annotations

import re
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from published_orders import DATA, all_tokens, compute, pairs, rows, run, setting, size, tokens
from replay import idle, peak_in_flight, replay

from pipesim.errors import ScheduleError
from pipesim.schedules import Setting, create
from pipesim.schedules.chimera import equal_slot_bubble

CHIMERA = DATA / "chimera"
ORDERS = sorted([*CHIMERA.glob("sc21_*.csv"), *CHIMERA.glob("multi_pipe_*.csv")])
SLOT_GRIDS = sorted(CHIMERA.glob("main_slotgrid_*.csv"))
BACKWARDS = [(2, 2), (10, 13), (2, 4), (2, 6)]
"""(F, B) with B / F = 1, 1.3, 2, 3."""


def schedule_of(file, **options):
    concatenation = "doubling" if "doubling" in file.stem else "direct"
    return create("chimera", pairs=pairs(file), concatenation=concatenation, **options)


def program_of(file, **options):
    return schedule_of(file, **options).program(Setting(*size(file)))


@pytest.mark.parametrize("file", ORDERS, ids=lambda f: f.stem)
def test_order_equals_the_released_generators(file):
    """Every rank runs exactly the published ops, in that order, with the published micro-batch numbers."""
    assert all_tokens(program_of(file)) == tokens(file)


@pytest.mark.parametrize("backward", [1, 2])
@pytest.mark.parametrize("file", ORDERS, ids=lambda f: f.stem)
def test_every_op_starts_and_ends_as_published(file, backward):
    """The replay equals the published start and end of every op, to the integer."""
    timeline = run(program_of(file), 1, backward)
    published = [(int(r[f"start_F1B{backward}"]), int(r[f"end_F1B{backward}"])) for r in compute(file)]
    assert list(zip(timeline.start.tolist(), timeline.end.tolist(), strict=True)) == published


@pytest.mark.parametrize("case", rows(CHIMERA / "makespans.csv"), ids=lambda c: f"{c['case']}_B{c['B']}")
def test_makespans_idle_times_and_peaks_equal_the_table(case):
    """Also for the sizes whose orders are not stored here."""
    concatenation = "doubling" if "doubling" in case["case"] else "direct"
    schedule = create("chimera", pairs=int(case["f"]), concatenation=concatenation)
    program = schedule.program(Setting(int(case["D"]), int(case["N"])))
    timeline = run(program, int(case["F"]), int(case["B"]))
    assert timeline.makespan == int(case["makespan"])
    assert set(idle(timeline)) == {int(case["idle_per_device"])}
    peaks = peak_in_flight(program)
    assert (min(peaks), max(peaks)) == (int(case["min_peak_stage_acts"]), int(case["max_peak_stage_acts"]))


@pytest.mark.parametrize("file", SLOT_GRIDS, ids=lambda f: f.stem)
def test_the_slot_grid_has_the_same_order(file):
    """The generator of the main branch places the same ops (it numbers micro-batches by direction only)."""
    program, grid = program_of(file), defaultdict(list)
    for row in compute(file):
        grid[int(row["device"])].append((row["direction"], f"{row['stage']}{row['op']}"))
    for rank in range(program.ranks):
        route = [int(program.route_of[op.microbatch]) for op in program.ops(rank)]
        ours = [
            ("down" if r < pairs(file) else "up", f"{op.stage}{op.kind.name}")
            for r, op in zip(route, program.ops(rank), strict=True)
        ]
        assert ours == grid[rank]


def test_placement_equals_the_table():
    """Down pipes start at rank j P / pairs and wrap around, up pipes mirror them."""
    table = rows(CHIMERA / "placement.csv")
    assert len(table) == 2 * 4 * (1 + 2) + 2 * 8 * (1 + 2 + 4)
    for row in table:
        f = int(row["f"])
        route = int(row["pipe_in_direction"]) + f * (row["direction"] == "up")
        placement = create("chimera", pairs=f).placement(int(row["D"]))
        assert placement.rank_of[route, int(row["stage"])] == int(row["device"])


@pytest.mark.parametrize(("ranks", "f"), [(4, 1), (8, 1), (8, 2), (8, 4), (12, 3)])
def test_every_rank_holds_two_stages_per_pair(ranks, f):
    """Weights are 2 f times those of one stage, and every stage has 2 f replicas."""
    placement = create("chimera", pairs=f).placement(ranks)
    assert set(placement.holds.sum(axis=1)) == {2 * f}
    assert set(placement.replicas) == {2 * f}


@pytest.mark.parametrize(("forward", "backward"), BACKWARDS)
@pytest.mark.parametrize(("ranks", "f"), [(2, 1), (4, 1), (4, 2), (6, 1), (6, 3), (8, 1), (8, 2), (8, 4), (12, 2)])
@pytest.mark.parametrize("units", [1, 2, 3])
def test_idle_time_of_direct_concatenation(ranks, f, units, forward, backward):
    """(P/f - 2) (F + K (B - F)) on every rank, exactly."""
    program = create("chimera", pairs=f).program(Setting(ranks, units * ranks))
    expected = (ranks // f - 2) * (forward + units * (backward - forward))
    assert set(idle(run(program, forward, backward))) == {expected}


@pytest.mark.parametrize(("forward", "backward"), [*BACKWARDS, (1, 2), (2, 5)])
@pytest.mark.parametrize("concatenation", ["doubling", "halving"])
@pytest.mark.parametrize("ranks", [2, 4, 6, 8])
@pytest.mark.parametrize("units", [1, 2, 3])
def test_makespan_of_forward_doubling(ranks, units, concatenation, forward, backward):
    """(M + P/2 - 1)(F + B) + (J - 1)(P - 2) max(0, B - 2F) with units of 2 P, exactly."""
    m = 2 * ranks * units
    program = create("chimera", concatenation=concatenation).program(Setting(ranks, m))
    expected = (m + ranks // 2 - 1) * (forward + backward)
    expected += (units - 1) * (ranks - 2) * max(0, backward - 2 * forward)
    assert run(program, forward, backward).makespan == expected


@pytest.mark.parametrize("ranks", [4, 6, 8])
def test_halves_of_a_forward_are_neighbours(ranks):
    """When halving, 2 j and 2 j + 1 take one route and their forwards follow each other on every rank."""
    program = create("chimera", concatenation="halving").program(Setting(ranks, 4 * ranks))
    assert (program.route_of[::2] == program.route_of[1::2]).all()
    for rank in range(ranks):
        forwards = [op for op in program.ops(rank) if op.kind.name == "F"]
        for first, second in zip(forwards[::2], forwards[1::2], strict=True):
            assert (second.stage, second.microbatch) == (first.stage, first.microbatch + 1)
            assert first.microbatch % 2 == 0


@pytest.mark.parametrize("ranks", [4, 8])
def test_halving_and_doubling_differ_in_names_only(ranks):
    """Same kinds and stages in the same order on every rank."""
    ours = [create("chimera", concatenation=c).program(Setting(ranks, 4 * ranks)) for c in ("halving", "doubling")]
    assert (ours[0].kind == ours[1].kind).all()
    assert (ours[0].stage == ours[1].stage).all()


@pytest.mark.parametrize(("forward", "backward"), BACKWARDS)
@pytest.mark.parametrize(
    ("ranks", "microbatches", "options"),
    [
        (4, 4, {}),
        (8, 24, {}),
        (8, 16, {"pairs": 2}),
        (8, 8, {"pairs": 4}),
        (12, 24, {"pairs": 3}),
        (8, 32, {"concatenation": "doubling"}),
        (6, 24, {"concatenation": "halving"}),
    ],
)
def test_theory_equals_the_replay(ranks, microbatches, options, forward, backward):
    """The declared bubble and the peak of every rank."""
    schedule = create("chimera", **options)
    asked = setting(ranks, microbatches, ranks, forward, backward)
    theory, program = schedule.theory(asked), schedule.program(asked)
    timeline = run(program, forward, backward)
    exact = Fraction(sum(idle(timeline)), ranks * timeline.makespan)
    assert theory.bubble_fraction == pytest.approx(float(exact), rel=1e-12, abs=1e-15)  # one float division
    assert list(theory.peak_in_flight) == peak_in_flight(program)


@pytest.mark.parametrize(("ranks", "microbatches", "f"), [(4, 4, 1), (4, 16, 1), (8, 16, 2), (32, 32, 1)])
def test_published_ratio_is_the_replay_at_equal_slots_and_optimistic_beyond(ranks, microbatches, f):
    """At B = F the paper's ratio, at B = 2 F more."""
    schedule = create("chimera", pairs=f)
    published = equal_slot_bubble(ranks, microbatches, f)
    equal, double = (schedule.theory(setting(ranks, microbatches, ranks, 2, b)).bubble_fraction for b in (2, 4))
    assert equal == pytest.approx(published, rel=1e-12)  # one float division
    assert double > published


def test_published_ratio_gives_the_bubble_bar_of_figure_1():
    """2048 nodes, P = 32, M = 32: 31.9 %; the bar reads about 32 %."""
    assert round(100 * equal_slot_bubble(32, 32), 1) == 31.9


def launches(file):
    """(rank, stage or direction) -> number of the rank's compute ops before its reduction is launched."""
    done, found = defaultdict(int), {}
    for row in rows(file):
        rank = int(row["device"])
        if row["op"] == "S":
            found[rank, row["stage"] or row["direction"]] = done[rank]
        else:
            done[rank] += 1
    return found


@pytest.mark.parametrize("file", [f for f in ORDERS if "sc21" in f.stem], ids=lambda f: f.stem)
def test_eager_opt_reduces_where_the_authors_code_does(file):
    """High stages before the drain, the others after all work: all S rows of the released order."""
    program = program_of(file, gradient_sync="eager-opt")
    triggers = schedule_of(file, gradient_sync="eager-opt").gradient_triggers(program)
    published = launches(file)
    assert len(published) == 2 * program.ranks
    for (rank, stage), count in published.items():
        assert triggers[rank, int(stage)] == program.starts[rank] + count - 1


@pytest.mark.parametrize("file", SLOT_GRIDS, ids=lambda f: f.stem)
def test_eager_reduces_in_the_slots_of_the_main_branch(file):
    """The first idle slot after the last backward; the grid has one cell per rank and direction."""
    program = program_of(file, gradient_sync="eager")
    triggers = schedule_of(file, gradient_sync="eager").gradient_triggers(program)
    published = launches(file)
    assert len(published) == 2 * program.ranks
    for (rank, direction), count in published.items():
        routes = np.arange(pairs(file)) + pairs(file) * (direction == "up")
        stages = np.flatnonzero((program.placement.rank_of[routes] == rank).any(axis=0))
        assert triggers[rank, stages].max() == program.starts[rank] + count - 1


@pytest.mark.parametrize("gradient_sync", ["end", "eager", "eager-opt"])
@pytest.mark.parametrize(
    ("ranks", "microbatches", "options"),
    [
        (4, 4, {}),
        (4, 1, {}),
        (8, 11, {"pairs": 2}),
        (8, 16, {"pairs": 4}),
        (6, 12, {"concatenation": "doubling"}),
        (8, 16, {"concatenation": "halving"}),
    ],
)
def test_no_stage_is_reduced_before_its_last_backward(ranks, microbatches, options, gradient_sync):
    """Triggers lie on the right rank, after the stage's last backward, and only where it is held."""
    schedule = create("chimera", gradient_sync=gradient_sync, **options)
    program = schedule.program(Setting(ranks, microbatches))
    triggers = schedule.gradient_triggers(program)
    assert ((triggers >= 0) == program.placement.holds).all()
    for node in np.flatnonzero(program.kind == 3):
        assert triggers[program.rank[node], program.stage[node]] >= node
    rank, _ = np.nonzero(triggers >= 0)
    assert (program.rank[triggers[triggers >= 0]] == rank).all()


@given(half=st.integers(1, 6), m=st.integers(1, 30), forward=st.integers(1, 3), backward=st.integers(1, 5))
def test_any_number_of_microbatches_runs_by_direct_concatenation(half, m, forward, backward):
    """Fewer than P, odd, not a multiple of P: verified, and never faster than the busiest rank."""
    divisors = [f for f in range(1, half + 1) if half % f == 0]
    for f in divisors:
        program = create("chimera", pairs=f).program(Setting(2 * half, m))
        assert replay(program, forward, backward, 0, 1).makespan >= m * (forward + backward)


@pytest.mark.parametrize(
    ("ranks", "microbatches", "options"),
    [
        (5, 5, {}),
        (1, 4, {}),
        (4, 6, {"concatenation": "doubling"}),
        (4, 4, {"concatenation": "doubling"}),
        (6, 30, {"concatenation": "halving"}),
    ],
)
def test_numbers_that_do_not_fit_come_with_numbers_that_do(ranks, microbatches, options):
    """And those then run."""
    with pytest.raises(ScheduleError) as caught:
        create("chimera", **options).program(Setting(ranks, microbatches))
    advice = re.search(r"use (\d+(?: or \d+)?)", str(caught.value))[1]
    for number in map(int, advice.split(" or ")):
        asked = Setting(number, microbatches) if ranks % 2 else Setting(ranks, number)
        replay(create("chimera", **options).program(asked))


def test_pairs_that_do_not_divide_come_with_those_that_do():
    """Half of 12 ranks is divided by 1, 2, 3 and 6."""
    with pytest.raises(ScheduleError, match=r"use one of \[1, 2, 3, 6\], found 4"):
        create("chimera", pairs=4).program(Setting(12, 12))
    for f in (1, 2, 3, 6):
        replay(create("chimera", pairs=f).program(Setting(12, 12)))


def test_doubling_is_for_one_pair():
    """Backwards of several pairs would meet in one slot."""
    with pytest.raises(ScheduleError, match="pairs: 1, found 2"):
        create("chimera", pairs=2, concatenation="doubling").program(Setting(8, 16))
