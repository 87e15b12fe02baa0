"""A schedule from a file: PyTorch's pipelining schedule CSV, verified when it is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from pipesim.errors import DeadlockError, ProgramError, ScheduleError
from pipesim.ir.connect import connect
from pipesim.ir.placement import Placement
from pipesim.ir.program import Program
from pipesim.ir.schedule_csv import read_schedule_csv
from pipesim.ir.verify import check_progress, verify
from pipesim.schedules.base import Schedule, Setting, require
from pipesim.schedules.registry import register


@register
@dataclass(frozen=True)
class Custom(Schedule):
    """The ops of a CSV file, in its order; the file also says how many ranks, stages and micro-batches."""

    name: ClassVar[str] = "custom"
    citation: ClassVar[str] = "file format: pytorch/pytorch:torch/distributed/pipelining/schedules.py, _load_csv"
    summary: ClassVar[str] = "read from a PyTorch pipelining schedule CSV"
    requires: ClassVar[str] = "the P and M of the file"

    file: str = field(metadata={"help": "path of the CSV file, compute_only or compute_comms", "path": True})

    @property
    def _program(self) -> Program:
        return load(self.file)

    def check(self, ranks: int, microbatches: int) -> None:
        """The numbers of the file."""
        found = self._program
        require(
            (found.ranks, found.microbatches) == (ranks, microbatches),
            f"{self.name}: {self.file} has {found.ranks} ranks and {found.microbatches} micro-batches, "
            f"but the config asks for {ranks} ranks and {microbatches} micro-batches",
        )

    def placement(self, ranks: int) -> Placement:
        """As in the file."""
        found = self._program.placement
        require(
            found.ranks == ranks,
            f"{self.name}: {self.file} has {found.ranks} ranks, but the config asks for {ranks} ranks",
        )
        return found

    def chunks_per_rank(self) -> int:
        """As in the file, where all ranks must hold equally many stages."""
        placement = self._program.placement
        held = sorted({int(n) for n in placement.holds.sum(axis=1)})
        require(
            len(held) == 1,
            f"{self.name}: in {self.file}, ranks hold between {held[0]} and {held[-1]} stages; "
            "every rank must hold equally many",
        )
        return held[0]

    def program(self, setting: Setting) -> Program:
        """The program of the file."""
        self.check(setting.ranks, setting.microbatches)
        return self._program


def load(file: str) -> Program:
    """Read and verify a schedule CSV; once for every version of the file.

    Raises:
        ScheduleError: the file cannot be read.
        ProgramError: it is no schedule, or the ops break a rule.
        DeadlockError: ranks wait for each other.
    """
    path = Path(file)
    try:
        stat = path.stat()
    except OSError as error:
        raise ScheduleError(f"cannot read the schedule file {path}: {error.strerror}") from error
    except ValueError as error:  # a null character in the path
        raise ScheduleError(f"cannot read the schedule file {file!r}: {error}") from error
    return _load(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _load(path: Path, _changed_ns: int, _size: int) -> Program:
    try:
        program = read_schedule_csv(_text(path))
        verify(program)
        check_progress(connect(program))
    except DeadlockError as error:
        raise DeadlockError(f"{path}: {error}") from error
    except ProgramError as error:
        raise ProgramError(f"{path}: {error}") from error
    return program


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ProgramError(f"not UTF-8 text: byte 0x{byte:02x} at position {error.start}") from error
    except OSError as error:
        raise ScheduleError(f"cannot read the schedule file {path}: {error.strerror}") from error
