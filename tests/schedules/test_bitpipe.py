"""BitPipe equals the released code and the README's figures op for op, and its closed forms are exact."""

from __future__ import annotations

import re
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
from published_orders import DATA, all_tokens, compute, rows, run, setting, size, tokens
from replay import idle, peak_in_flight, replay

from pipesim.errors import ScheduleError
from pipesim.schedules import Setting, create

BITPIPE = DATA / "bitpipe"
ORDERS = sorted([*BITPIPE.glob("code_*.csv"), *BITPIPE.glob("figure_*.csv")])
BACKWARDS = [(2, 2), (10, 13), (2, 4), (2, 6)]
"""(F, B) of one chunk with B / F = 1, 1.3, 2, 3."""


def program_of(file):
    return create("bitpipe", early_forwarding="concat" in file.stem).program(Setting(*size(file)))


@pytest.mark.parametrize("file", ORDERS, ids=lambda f: f.stem)
def test_order_equals_the_released_code_and_the_figures(file):
    """With early forwarding, the README's figure of two units; without, the code."""
    assert all_tokens(program_of(file)) == tokens(file)


@pytest.mark.parametrize("backward", [1, 2])
@pytest.mark.parametrize("file", ORDERS, ids=lambda f: f.stem)
def test_every_op_starts_and_ends_as_published(file, backward):
    """The replay equals the published start and end of every op, to the integer."""
    timeline = run(program_of(file), 1, backward)
    published = [(int(r[f"start_F1B{backward}"]), int(r[f"end_F1B{backward}"])) for r in compute(file)]
    assert list(zip(timeline.start.tolist(), timeline.end.tolist(), strict=True)) == published


@pytest.mark.parametrize(
    "case",
    [c for c in rows(BITPIPE / "makespans.csv") if "greedy" not in c["case"]],
    ids=lambda c: f"{c['case']}_B{c['B_chunk']}",
)
def test_makespans_idle_times_and_peaks_equal_the_table(case):
    """Also for the sizes whose orders are not stored here."""
    schedule = create("bitpipe", early_forwarding="concat" in case["case"])
    program = schedule.program(Setting(int(case["D"]), int(case["N"])))
    timeline = run(program, int(case["F_chunk"]), int(case["B_chunk"]))
    assert timeline.makespan == int(case["makespan_chunk_units"])
    assert set(idle(timeline)) == {int(case["idle_per_device"])}
    peaks = peak_in_flight(program)
    assert (min(peaks), max(peaks)) == (int(case["min_peak_chunk_acts"]), int(case["max_peak_chunk_acts"]))


@pytest.mark.parametrize(
    "case",
    [c for c in rows(BITPIPE / "makespans.csv") if "greedy" in c["case"]],
    ids=lambda c: f"{c['case']}_B{c['B_chunk']}",
)
def test_early_forwarding_is_as_fast_as_the_greedy_rule_it_was_tuned_for(case):
    """Equal makespan at B = 2 F, where the greedy rule is made; shorter at B = F; no more memory."""
    program = create("bitpipe", early_forwarding=True).program(Setting(int(case["D"]), int(case["N"])))
    makespan = run(program, 1, int(case["B_chunk"])).makespan
    if case["B_chunk"] == "2":
        assert makespan == int(case["makespan_chunk_units"])
    else:
        assert makespan < int(case["makespan_chunk_units"])
    assert max(peak_in_flight(program)) == int(case["max_peak_chunk_acts"])


def test_placement_equals_the_table():
    """Down chunks r and 2P-1-r, up chunks P-1-r and P+r on rank r; replicas on ranks r and P-1-r."""
    table = rows(BITPIPE / "placement.csv")
    assert len(table) == 4 * (4 + 8)
    for row in table:
        placement = create("bitpipe").placement(int(row["D"]))
        stage, rank, partner = int(row["chunk_stage"]), int(row["device"]), int(row["grad_partner_device"])
        assert placement.rank_of[int(row["direction"] == "up"), stage] == rank
        assert set(np.flatnonzero(placement.holds[:, stage])) == {rank, partner}


def test_looping_placement_walks_the_ranks_twice():
    """Second chunks are down P + r and up 2P-1-r, as in the code that is commented out."""
    placement = create("bitpipe", placement="loop").placement(8)
    for r in range(8):
        assert placement.stages_of(r, 0).tolist() == [r, 8 + r]
        assert placement.stages_of(r, 1).tolist() == [7 - r, 15 - r]


@pytest.mark.parametrize(("forward", "backward"), BACKWARDS)
@pytest.mark.parametrize("placement", ["v", "loop"])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("ranks", [2, 4, 6, 8])
@pytest.mark.parametrize("units", [1, 2, 3])
def test_idle_time(ranks, units, placement, early, forward, backward):
    """(P - 2)(F + K (B - F)) on every rank, less min(F, B - F) per boundary with early forwarding, exactly."""
    schedule = create("bitpipe", placement=placement, early_forwarding=early)
    expected = (ranks - 2) * (forward + units * (backward - forward))
    if early and ranks > 2:
        expected -= (units - 1) * min(forward, backward - forward)
    assert set(idle(run(schedule.program(Setting(ranks, units * ranks)), forward, backward))) == {expected}


@pytest.mark.parametrize(("forward", "backward"), BACKWARDS)
@pytest.mark.parametrize("placement", ["v", "loop"])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(("ranks", "microbatches"), [(2, 4), (4, 4), (4, 12), (8, 16)])
def test_theory_equals_the_replay(ranks, microbatches, placement, early, forward, backward):
    """The declared bubble and the peak of every rank, in units of a rank's whole share (two chunks)."""
    schedule = create("bitpipe", placement=placement, early_forwarding=early)
    asked = setting(ranks, microbatches, 2 * ranks, forward, backward)
    theory, program = schedule.theory(asked), schedule.program(asked)
    timeline = run(program, forward, backward)
    exact = Fraction(sum(idle(timeline)), ranks * timeline.makespan)
    assert theory.bubble_fraction == pytest.approx(float(exact), rel=1e-12, abs=1e-15)  # one float division
    assert list(theory.peak_in_flight) == [x / 2 for x in peak_in_flight(program)]


@pytest.mark.parametrize(("ranks", "microbatches"), [(4, 4), (8, 8), (16, 16)])
def test_bubble_of_one_unit_with_double_backwards(ranks, microbatches):
    """(P-2)/(3M+P-2) for M = P and B = 2 F."""
    bubble = create("bitpipe").theory(Setting(ranks, microbatches)).bubble_fraction
    assert bubble == pytest.approx((ranks - 2) / (3 * microbatches + ranks - 2), rel=1e-12)  # one float division


@pytest.mark.parametrize("file", [f for f in ORDERS if "code" in f.stem], ids=lambda f: f.stem)
def test_pairs_synchronise_where_the_released_code_does(file):
    """Second half of the model before the last backward on outer ranks, all else after it: all S rows."""
    ranks, _ = size(file)
    program = program_of(file)
    triggers = create("bitpipe").gradient_triggers(program)
    done, checked = defaultdict(int), 0
    for row in rows(file):
        rank = int(row["device"])
        if row["op"] != "S":
            done[rank] += 1
            continue
        second_half = row["chunk_on_device"].startswith("second_half")
        stages = [s for s in np.flatnonzero(program.placement.holds[rank]) if (s >= ranks) == second_half]
        assert triggers[rank, stages].tolist() == [program.starts[rank] + done[rank] - 1] * 2
        checked += 1
    assert checked == 2 * ranks


def test_reductions_block_as_released_unless_told_otherwise():
    """The option decides whether compute waits."""
    assert create("bitpipe").blocking_reductions
    assert not create("bitpipe", pair_sync="asynchronous").blocking_reductions


@pytest.mark.parametrize(("ranks", "microbatches"), [(5, 10), (1, 1), (4, 6), (4, 2), (8, 20)])
def test_numbers_that_do_not_fit_come_with_numbers_that_do(ranks, microbatches):
    """And those then run."""
    with pytest.raises(ScheduleError) as caught:
        create("bitpipe").program(Setting(ranks, microbatches))
    advice = re.search(r": use (\d+(?: or \d+)?)", str(caught.value))[1]
    for number in map(int, advice.split(" or ")):
        asked = Setting(number, 2 * number) if ranks % 2 else Setting(ranks, number)
        replay(create("bitpipe", early_forwarding=True).program(asked))


def test_unknown_options_are_named_as_users_know_them():
    """The placement option is called placement, whatever its field is called."""
    with pytest.raises(ScheduleError, match="allowed: placement, early_forwarding, pair_sync"):
        create("bitpipe", placment="v")
