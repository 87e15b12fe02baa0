"""Schedules from CSV files: read, verified, and refused with the file's name and the place."""

from __future__ import annotations

from pathlib import Path

import pytest
from replay import replay

from pipesim.config import load_config
from pipesim.errors import ConfigError, DeadlockError, ProgramError, ScheduleError
from pipesim.schedules import Setting, create

TORCH = Path(__file__).parents[1] / "data" / "torch"
GOOD = "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n"


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes, name: str = "mine.csv") -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("stem", "name", "options", "p", "m"),
    [
        ("Interleaved1F1B_p4_m8_v2", "interleaved-1f1b", {"chunks": 2}, 4, 8),
        ("DualPipeV_p4_m8_v2", "dualpipe-v", {}, 4, 8),
        ("InterleavedZeroBubble_p4_m8_v3", "interleaved-zb", {"chunks": 3}, 4, 8),
    ],
)
def test_a_file_is_the_schedule_it_was_written_by(stem, name, options, p, m):
    """Placement, chunks and every start time are those of the schedule itself."""
    read, made = create("custom", file=str(TORCH / f"{stem}.csv")), create(name, **options)
    assert read.chunks_per_rank() == made.chunks_per_rank()
    assert read.placement(p).rank_of.tolist() == made.placement(p).rank_of.tolist()
    ours, theirs = (replay(x.program(Setting(p, m)), 2, 3, 1) for x in (read, made))
    assert ours.start.tolist() == theirs.start.tolist()


def test_a_changed_file_is_read_again(write):
    """Reading is remembered per version of the file, not per name."""
    custom = create("custom", file=write(GOOD))
    assert custom.program(Setting(2, 2)).microbatches == 2
    write("0F0,0B0\n1F0,1B0\n")
    assert custom.program(Setting(2, 1)).microbatches == 1


@pytest.mark.parametrize(("p", "m"), [(2, 3), (3, 2), (4, 8)])
def test_other_numbers_are_refused(write, p, m):
    """The message names the file's numbers and those asked for; the file's run."""
    custom = create("custom", file=write(GOOD))
    message = f"2 ranks and 2 micro-batches, but the config asks for {p} ranks and {m} micro-batches"
    with pytest.raises(ScheduleError, match=message):
        custom.program(Setting(p, m))
    replay(custom.program(Setting(2, 2)))


def test_uneven_ranks_are_refused(write):
    """Chunks are a number per rank, so every rank must hold as many stages as the others."""
    custom = create("custom", file=write("0F0,2F0,2B0,0B0\n1F0,1B0\n"))
    with pytest.raises(ScheduleError, match="hold between 1 and 2 stages"):
        custom.chunks_per_rank()


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("", ProgramError, r"mine.csv: the file is empty"),
        (GOOD.removesuffix("B1\n"), ProgramError, r"mine.csv: row 2, cell 4: '1' is no op"),
        (GOOD.replace("1F1,1B1", ""), ProgramError, r"mine.csv: stage 1, micro-batch 1: no forward.*rank 1, op 0"),
        (b"0F0,\xff\xfe", ProgramError, "mine.csv: not UTF-8 text: byte 0xff at position 4"),
        (GOOD.replace("0F1,0B0,0B1", "0B1,0F1,0B0"), DeadlockError, "mine.csv: deadlock: no rank can go on\n  rank 0"),
    ],
)
def test_bad_files_are_named(write, content, error, message):
    """File, row, cell and picture; deadlocks say what each rank waits for."""
    with pytest.raises(error, match=f"(?s){message}"):
        create("custom", file=write(content)).program(Setting(2, 2))


@pytest.mark.parametrize("file", ["nowhere.csv", "a\0b.csv", "."])
def test_what_is_no_file_is_said(tmp_path, monkeypatch, file):
    """A path that leads nowhere, cannot exist, or is a folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScheduleError, match="cannot read the schedule file"):
        create("custom", file=file).program(Setting(2, 2))


def test_the_file_is_required():
    """Without it there is nothing to schedule."""
    with pytest.raises(ScheduleError, match="needs the option 'file'"):
        create("custom")


def config(tmp_path, file: str, microbatches: int = 2) -> Path:
    path = tmp_path / "step.yaml"
    schedule = f"{{name: custom, file: {file}}}"
    path.write_text(f"pipeline: {{ranks: 2, microbatches: {microbatches}}}\nschedule: {schedule}\n")
    return path


def test_a_config_names_the_file_relative_to_itself(write, tmp_path):
    """As all paths in a config."""
    write(GOOD)
    built = load_config(config(tmp_path, "mine.csv")).schedule.build()
    assert built.program(Setting(2, 2)).to_csv() == GOOD


@pytest.mark.parametrize(
    ("content", "microbatches", "message"),
    [(GOOD, 3, "asks for 2 ranks and 3 micro-batches"), ("0F0,0X0", 2, "'0X0' is no op"), (None, 2, "cannot read")],
)
def test_a_config_with_a_bad_file_is_a_config_error(write, tmp_path, content, microbatches, message):
    """Whatever is wrong with the file is a problem of the config's schedule."""
    if content is not None:
        write(content)
    with pytest.raises(ConfigError, match=f"schedule: .*{message}"):
        load_config(config(tmp_path, "mine.csv", microbatches))
