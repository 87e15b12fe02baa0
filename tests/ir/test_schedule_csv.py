"""PyTorch's schedule CSV reads back to the program it was written from; anything else is refused with the place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipesim.errors import DeadlockError, ProgramError
from pipesim.ir.connect import connect
from pipesim.ir.schedule_csv import read_schedule_csv
from pipesim.ir.verify import check_progress, verify

FILES = sorted((Path(__file__).parents[1] / "data" / "torch").glob("*.csv"))
SMALL = "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n"


def check(program):
    verify(program)
    check_progress(connect(program))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_what_pytorch_writes_reads_back(file):
    """Every golden file, looped, V-shaped and overlapped ones included, is a valid program and stays the same."""
    program = read_schedule_csv(file.read_text())
    verify(program)
    assert program.to_csv() == file.read_text()


def test_all_golden_files_are_there():
    """The parametrisation above is not empty."""
    assert len(FILES) == 31


def test_communication_and_idle_slots_are_left_out():
    """A compute_comms dump holds the same program as the compute-only file."""
    dump = (
        "0UNSHARD,0F0,0SEND_F0,,0F1,0SEND_F1,0WAIT_SEND_F0,0RECV_B0,0B0,0RECV_B1,0B1,0RESHARD,0REDUCE_GRAD\n"
        ",1RECV_F0,1F0,1B0,1SEND_B0,1RECV_F1,1F1,1B1,1SEND_B1,1WAIT_SEND_B1,1WAIT_REDUCE_GRAD\n\n,,\n"
    )
    assert read_schedule_csv(dump).to_csv() == SMALL


def test_windows_line_ends_and_spaces_are_fine():
    """Spreadsheets write them."""
    assert read_schedule_csv(SMALL.replace(",", ", ").replace("\n", "\r\n")).to_csv() == SMALL


def test_stages_live_where_the_rows_say():
    """The placement follows from the file, here the V shape."""
    program = read_schedule_csv("0F0,3F0,3B0,0B0\n1F0,2F0,2B0,1B0\n")
    assert program.placement.rank_of.tolist() == [[0, 1, 1, 0]]
    assert program.microbatches == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        (",,\n\n", "the file is empty"),
        ("0F0,0F1,0X2,0B0", r"row 1, cell 3: '0X2' is no op.*F I W B\n  rank 0, cell 3: 0F0 0F1 >0X2< 0B0"),
        ("0F0\n1F0,1F1,1F2,1F3,F4,1F5", r"row 2, cell 5: 'F4' is no op.*\n  rank 1, cell 5: ... 1F1 1F2 1F3 >F4< 1F5"),
        ("0F0,0OPT0", r"'0OPT0' is no compute op; allowed kinds: F I W B\n  rank 0, cell 2: 0F0 >0OPT0<"),
        ("0F0,(0F1;0B0", r"row 1, cell 2"),
        ("0F0," + "9" * 5000 + "F0", "too long to be an op"),
        ("0F0,0B0\n\n1F0,1B0", r"row 2 \(rank 1\) has no compute ops"),
        ("0F0,0B0\n2F0,2B0", "stage 1 occurs nowhere, but stage 2 does"),
        ("0F0,0B0,0F99999999999,0B99999999999", "micro-batch 1 occurs nowhere, but micro-batch 99999999999 does"),
        ("stage,kind\n", "row 1, cell 1: 'stage' is no op"),
    ],
)
def test_what_cannot_be_read_is_shown(text, message):
    """Row, cell, what was found, what is allowed, and the cells around."""
    with pytest.raises(ProgramError, match=f"(?s){message}"):
        read_schedule_csv(text)


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("1B1", "", ProgramError, r"stage 1, micro-batch 1: needs exactly one B.*\n  rank 1, op 1: 1F0 >1B0< 1F1"),
        ("1F1,", "", ProgramError, r"stage 1, micro-batch 1: no forward.*\n  rank 1, op 0: >1F0< 1B0 1B1"),
        ("1F1", "1F0", ProgramError, r"1F0 occurs 2 times\n  rank 1, op 2: 1F0 1B0 >1F0< 1B1"),
        ("1F1", "0F1", ProgramError, r"0F1 is on rank 1, but stage 0 lives on rank 0\n  rank 1, op 2: 1F0 1B0 >0F1<"),
        ("0F0,0F1", "0F1,0B1,0F0", ProgramError, "0B1 occurs 2 times"),
        ("0F1,0B0,0B1", "0B1,0F1,0B0", DeadlockError, "rank 0 cannot start 0B1: waiting on 1B1 on rank 1"),
        ("1F0,1B0", "(1F0;1B0)", ProgramError, r"1B0 cannot overlap with 1F0, which it needs"),
    ],
)
def test_what_breaks_a_rule_is_shown(old, new, error, message):
    """Files that parse, but miss, repeat, misplace or deadlock an op."""
    program = read_schedule_csv(SMALL.replace(old, new))
    with pytest.raises(error, match=f"(?s){message}"):
        check(program)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_files_give_one_kind_of_error(data):
    """Any character changed, dropped or added in any file is either still a program or a ProgramError."""
    text = SMALL
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(st.text(max_size=3)) + text[at + data.draw(st.integers(0, 4)) :]
    try:
        program = read_schedule_csv(text)
        check(program)
    except ProgramError:
        return  # anything else would fail the test
    assert len(program) >= 2 * program.placement.stages * program.microbatches
