"""A program is accepted only if it is one training step; errors show the place."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipesim.errors import DeadlockError, ProgramError
from pipesim.ir.connect import connect
from pipesim.ir.placement import linear
from pipesim.ir.program import Program
from pipesim.ir.verify import check_progress, verify
from pipesim.schedules import Setting, create

RANK_0 = ["0F0", "0F1", "0B0", "0B1"]
RANK_1 = ["1F0", "1I0", "1W0", "1F1", "1B1"]


def program(rank_0=RANK_0, rank_1=RANK_1):
    return Program.from_orders(linear(2), [rank_0, rank_1])


def test_a_step_is_accepted():
    """Full and split backwards may be mixed."""
    verify(program())
    check_progress(connect(program()))


@pytest.mark.parametrize(
    ("rank_0", "rank_1", "message"),
    [
        (["0F0", "0B0", "0B1"], RANK_1, "stage 0, micro-batch 1: no forward"),
        (["0F0", "0F1", "0B0"], RANK_1, "stage 0, micro-batch 1: needs exactly one B"),
        ([*RANK_0, "0F1"], RANK_1, r"0F1 occurs 2 times\n  rank 0, op 4: ... 0F1 0B0 0B1 >0F1<"),
        (RANK_0, [*RANK_1, "1W1"], "stage 1, micro-batch 1: needs one W for its I, and none beside a B"),
        (RANK_0, ["1F0", "1I0", "1F1", "1B1"], "stage 1, micro-batch 0: needs one W"),
        (RANK_0, ["1F0", "1W0", "1I0", "1F1", "1B1"], "1W0 comes before its I"),
        ([*RANK_0, "1F1"], RANK_1[:3] + RANK_1[4:], "1F1 is on rank 0, but stage 1 lives on rank 1"),
        ([*RANK_0, "7F1"], RANK_1, "7F1 is outside the step"),
    ],
)
def test_what_is_wrong_is_shown(rank_0, rank_1, message):
    """Missing, repeated, misplaced and misordered ops are named."""
    with pytest.raises(ProgramError, match=message.replace("...", r"\.\.\.")):
        verify(program(rank_0, rank_1))


def test_a_circular_wait_is_a_deadlock():
    """Backward before forward on the only stage that can give the gradient."""
    stuck = program(["0F0", "0B1", "0F1", "0B0"])
    verify(stuck)
    with pytest.raises(DeadlockError, match="rank 0 cannot start 0B1: waiting on 1B1 on rank 1"):
        check_progress(connect(stuck))


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(["gpipe", "1f1b", "breadth-first"]), st.integers(1, 6), st.integers(1, 9))
def test_csv_and_grid_hold_every_op(name, ranks, microbatches):
    """The CSV reads back to the same ops; the grid shows each of them."""
    made = create(name).program(Setting(ranks, microbatches))
    verify(made)
    check_progress(connect(made))
    rows = [row.split(",") for row in made.to_csv().splitlines()]
    again = Program.from_orders(made.placement, rows)
    assert again.to_csv() == made.to_csv()
    assert [line.split("|")[1].split() for line in made.grid().splitlines()] == rows
