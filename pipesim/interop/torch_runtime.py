"""Programs on PyTorch's own pipeline runtime: one process per rank on this machine, gloo, no GPU.

This side imports no PyTorch: it writes down the jobs, starts `pipesim.interop.torch_ranks`, and reads when every
op ran.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipesim.errors import PipesimError
from pipesim.interop.torch_csv import FORMATS, LOADED_AS, Format
from pipesim.ir.op import Kind
from pipesim.ir.program import Program

Seconds = NDArray[np.float64]

OLDEST = (2, 6)
"""First PyTorch release whose pipeline runtime runs all of this."""

MOST_RANKS = 32
"""More processes than this are no replay but a load test."""

LONGEST_S = 3600.0
"""Seconds of work for every rank beyond which a replay is a mistake."""

STARTUP_S = 120.0
"""How long importing PyTorch and meeting the other ranks may take on a busy machine."""

CALIBRATED, NAP_S = 8, 0.005
"""Of a calibration step: micro-batches of each kind of backward, and seconds of every sleep."""

RANKS = "pipesim.interop.torch_ranks"
"""The program that imports PyTorch."""

_TAIL = 12


class TorchError(PipesimError):
    """PyTorch is missing, too old, or failed."""


@dataclass(frozen=True, eq=False)
class Job:
    """A program and how long its ops sleep.

    ``first_s`` (n,): seconds of every op, of its input-gradient half for a B; ``second_s`` (n,): of a B's
    weight-gradient half. ``hop_s`` (P, P): latency from rank to rank. ``steps`` are measured, after one that is
    not. ``profile``: an existing directory for one Kineto trace per rank, of one more step.
    """

    program: Program
    first_s: Seconds
    second_s: Seconds
    hop_s: Seconds
    steps: int = 5
    to: Format = "torch-csv"
    profile: Path | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """What happened: start and end of every op in seconds since the step's first op, shape (steps, n).

    ``overhead_s``: what PyTorch's runtime adds to one op of a kind, the mean over the one-stage steps that all
    ranks ran, each alone, between the measured ones. ``profiled``: start and end of every op of the step that was
    profiled, shape (n,) each.
    """

    start_s: Seconds
    end_s: Seconds
    overhead_s: dict[Kind, float]
    profiled: tuple[Seconds, Seconds] | None = None

    @property
    def step_times_s(self) -> Seconds:
        """From the first op's start to the last op's end, shape (steps,)."""
        step: Seconds = self.end_s.max(axis=1) - self.start_s.min(axis=1)
        return step


def check_torch() -> None:
    """Raise TorchError unless a PyTorch that can run programs is installed; does not import it."""
    needed = ".".join(map(str, OLDEST))
    how = f"it needs PyTorch {needed} or newer: pip install 'pipesim[torch]'"
    try:
        found = version("torch")
    except PackageNotFoundError:
        raise TorchError(f"PyTorch is not installed; {how}") from None
    if tuple(int(part) for part in found.split("+")[0].split(".")[:2]) < OLDEST:
        raise TorchError(f"PyTorch {found} is too old; {how}")


def run_on_torch(jobs: Sequence[Job]) -> list[Run]:
    """Run jobs of equally many ranks one after the other, in the same processes.

    Raises:
        TorchError: PyTorch is missing or fails, there are too many ranks, or they would take too long.
    """
    check_torch()
    ranks = jobs[0].program.ranks
    if ranks > MOST_RANKS:
        raise TorchError(f"{ranks} ranks are too many to run on one machine; allowed: up to {MOST_RANKS}")
    for job in jobs:
        _check_length(job)
    with tempfile.TemporaryDirectory(prefix="pipesim-") as name:
        place = Path(name)
        task = {"ranks": ranks, "jobs": [_written(job, number, place) for number, job in enumerate(jobs)]}
        (place / "jobs.json").write_text(json.dumps(task))
        _start(place, STARTUP_S + 5.0 * sum(_expected_s(job) for job in jobs))
        found = [json.loads((place / f"rank{rank}.json").read_text()) for rank in range(ranks)]
    return [_read(job, [rank[number] for rank in found]) for number, job in enumerate(jobs)]


def _check_length(job: Job) -> None:
    """Raise TorchError unless the job is over within reason."""
    if job.steps < 1:
        raise TorchError(f"{job.steps} steps cannot be measured; allowed: at least 1")
    step_s = _work_s(job) / job.program.ranks + _calibration_s(job)
    if not job.steps * step_s <= LONGEST_S:
        raise TorchError(
            f"{job.steps} steps, each at least {step_s:.3g} s with its calibration, are too long a replay; "
            f"allowed: up to {LONGEST_S:.0f} s, which are {int(LONGEST_S / step_s)} such steps; "
            "shorter ops make shorter steps"
        )


def _written(job: Job, number: int, place: Path) -> dict[str, Any]:
    """The job as plain data; its schedules go to files."""
    program = job.program
    csv, calibration_csv = f"schedule{number}.csv", f"calibration{number}.csv"
    (place / csv).write_text(FORMATS[job.to](program))
    (place / calibration_csv).write_text(_one_stage(_turns(program)))
    rank_of = program.placement.rank_of[0].tolist()
    return {
        "csv": csv,
        "format": LOADED_AS[job.to],
        "calibration": _calibration(program, calibration_csv),
        "rank_of": rank_of,
        "stages": program.placement.stages,
        "microbatches": program.microbatches,
        "naps": [list(_naps(job, rank)) for rank in range(program.ranks)],
        "hops_s": [_hops(job, rank_of, stage) for stage in range(len(rank_of))],
        "steps": job.steps,
        "profile": str(job.profile) if job.profile else None,
    }


def _naps(job: Job, rank: int) -> Iterator[tuple[str, int, float]]:
    """Kind, stage and seconds of every sleep of a rank; a B sleeps twice."""
    program = job.program
    for node in range(int(program.starts[rank]), int(program.starts[rank + 1])):
        kind, stage = Kind(program.kind[node]), int(program.stage[node])
        yield "I" if kind == Kind.B else kind.name, stage, float(job.first_s[node])
        if kind == Kind.B:
            yield "W", stage, float(job.second_s[node])


def _hops(job: Job, rank_of: Sequence[int], stage: int) -> tuple[float, float]:
    """Latency into a stage from the previous and from the next one."""
    others = (max(stage - 1, 0), min(stage + 1, len(rank_of) - 1))
    ranks = [rank_of[other] for other in others]
    previous, following = (0.0 if rank == rank_of[stage] else float(job.hop_s[rank, rank_of[stage]]) for rank in ranks)
    return previous, following


def _calibration(program: Program, csv: str) -> dict[str, Any]:
    """A step of one stage on one rank, whose naps are all equally long."""
    turns = _turns(program)
    return {"csv": csv, "microbatches": len(turns), "nap_s": NAP_S}


def _turns(program: Program) -> list[str]:
    """The ops of a calibration step by micro-batch: whole backwards, split ones, or one of each in turn."""
    has = {Kind(kind) for kind in np.unique(program.kind).tolist()}
    return [turn for turn, kind in (("FB", Kind.B), ("FIW", Kind.W)) if kind in has] * CALIBRATED


def _one_stage(turns: Sequence[str]) -> str:
    """One row of ops on stage 0."""
    return ",".join(f"0{kind}{microbatch}" for microbatch, turn in enumerate(turns) for kind in turn) + "\n"


def _work_s(job: Job) -> float:
    """Seconds that the ops of a step take, of all ranks together."""
    return float(job.first_s.sum() + job.second_s.sum())


def _calibration_s(job: Job) -> float:
    """Seconds of a calibration step."""
    return 3 * NAP_S * len(_turns(job.program))


def _expected_s(job: Job) -> float:
    """Wall-clock seconds of a job if all its ops ran one after the other, and of its calibration."""
    return (job.steps + 2) * (_work_s(job) + float(job.hop_s.max(initial=0.0)) + _calibration_s(job))


def _start(place: Path, limit_s: float) -> None:
    """Run the ranks until they are done."""
    source = str(Path(__file__).resolve().parents[2])
    paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
    with (place / "errors").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", RANKS, str(place)],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        raise TorchError(f"PyTorch did not finish within {limit_s:.0f} s{_tail(place)}") from None
    finally:
        _end(process)
    if code != 0:
        raise TorchError(f"PyTorch failed{_tail(place)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End all ranks of a process that may be done already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(place: Path) -> str:
    """The end of what the ranks said."""
    lines = (place / "errors").read_text(errors="replace").strip().splitlines()
    return ":\n" + "\n".join(f"  {line}" for line in lines[-_TAIL:]) if lines else ""


def _read(job: Job, ranks: Sequence[dict[str, Any]]) -> Run:
    """Naps of all ranks -> ops of the program."""
    program = job.program
    start, end = _ops(program, [rank["steps"] for rank in ranks])
    profiled = None
    if job.profile is not None:
        one_start, one_end = _ops(program, [[rank["profiled"]] for rank in ranks])
        profiled = one_start[0], one_end[0]
    return Run(start, end, _overheads(program, ranks), profiled)


def _ops(program: Program, ranks: Sequence[Any]) -> tuple[Seconds, Seconds]:
    """Start and end of every op from the naps of each rank, step by step, in seconds since each step's first op."""
    times = np.concatenate([np.array(rank) for rank in ranks], axis=1)
    naps = 1 + (program.kind == Kind.B).astype(np.int64)
    first = np.concatenate([[0], np.cumsum(naps)[:-1]])
    start, end = times[:, first, 0], times[:, first + naps - 1, 1]
    begin = start.min(axis=1, keepdims=True)
    return start - begin, end - begin


def _overheads(program: Program, ranks: Sequence[dict[str, Any]]) -> dict[Kind, float]:
    """From the end of one op to the end of the next, less what the op slept, by kind."""
    kinds = [Kind[kind] for turn in _turns(program) for kind in turn]
    naps = np.array([2 if kind == Kind.B else 1 for kind in kinds])
    last = np.cumsum(naps) - 1
    ends = np.array([step for rank in ranks for step in rank["calibration"]])[:, last, 1]
    extra = np.diff(ends, axis=1) - naps[1:] * NAP_S
    found = np.array(kinds[1:])
    return {kind: float(extra[:, found == kind].mean()) for kind in sorted(set(kinds))}
