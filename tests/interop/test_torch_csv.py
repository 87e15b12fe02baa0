"""What PyTorch's pipeline runtime is given to run."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pipesim
from pipesim.errors import PipesimError
from pipesim.interop.torch_csv import FORMATS, compute_comms, compute_only
from pipesim.ir.op import COMPUTE_KINDS, Kind, Op, Pair, parse
from pipesim.ir.program import Program

SCHEDULES: dict[str, dict[str, Any]] = {
    "1f1b": {},
    "gpipe": {},
    "interleaved-1f1b": {"chunks": 2},
    "breadth-first": {"chunks": 2},
    "interleaved-zb": {"chunks": 2},
    "zb-h1": {},
    "zb-v": {},
    "dualpipe-v": {},
}


def program_of(name: str, **options: Any) -> Program:
    return pipesim.program(
        {"pipeline": {"ranks": 4, "microbatches": 8}, "costs": {}, "schedule": {"name": name, **options}}
    )


@pytest.fixture(params=SCHEDULES)
def program(request: pytest.FixtureRequest) -> Program:
    return program_of(request.param, **SCHEDULES[request.param])


@pytest.mark.parametrize("name", FORMATS)
def test_custom_reads_back_the_same_program(program: Program, name: str, tmp_path: Path) -> None:
    file = tmp_path / "schedule.csv"
    file.write_text(FORMATS[name](program))
    back = program_of("custom", file=str(file))
    assert [back.tokens(rank) for rank in range(4)] == [program.tokens(rank) for rank in range(4)]
    assert back.placement.rank_of.tolist() == program.placement.rank_of.tolist()


def test_communication_stands_where_a_person_would_put_it() -> None:
    program = pipesim.program({"pipeline": {"ranks": 2, "microbatches": 2}, "costs": {}, "schedule": "1f1b"})
    assert compute_comms(program).splitlines() == [
        "0UNSHARD,0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1,0REDUCE_GRAD,0RESHARD",
        "1UNSHARD,1RECV_F0,1F0,1RECV_F1,1B0,1SEND_B0,1F1,1B1,1SEND_B1,1REDUCE_GRAD,1RESHARD",
    ]


def test_nothing_is_sent_between_stages_of_one_rank() -> None:
    """Stages 3 and 4 of a V share the last rank."""
    text = compute_comms(program_of("dualpipe-v"))
    assert "3SEND_F" not in text
    assert "4RECV_F" not in text
    assert "4SEND_B" not in text
    assert "2SEND_F" in text


def test_messages_between_two_ranks_are_received_in_the_order_they_are_sent(program: Program) -> None:
    """Messages carry no tag: the n-th receive from a rank gets that rank's n-th send."""
    rank_of = program.placement.rank_of[0].tolist()
    sent, received = defaultdict(list), defaultdict(list)
    for rank, row in enumerate(rows(compute_comms(program))):
        for cell in row:
            if "SEND" in cell or "RECV" in cell:
                op = _communication(cell)
                peer = op.stage + (1 if op.kind in (Kind.SEND_F, Kind.RECV_B) else -1)
                key = (op.kind in (Kind.SEND_F, Kind.RECV_F), min(op.stage, peer), op.microbatch)
                if op.kind in (Kind.SEND_F, Kind.SEND_B):
                    sent[rank, rank_of[peer]].append(key)
                else:
                    received[rank_of[peer], rank].append(key)
    assert sent
    assert sent == received


def test_blocking_messages_would_not_deadlock(program: Program) -> None:
    """Even if each send waited for its receive and each receive for its send, all ranks would finish."""
    queues = [list(reversed(row)) for row in rows(compute_comms(program))]
    at = dict(enumerate(program.placement.rank_of[0].tolist()))
    moved = True
    while moved:
        moved = False
        for queue in queues:
            while queue and not ("SEND" in queue[-1] or "RECV" in queue[-1]):
                queue.pop()
                moved = True
            if queue and "SEND" in queue[-1]:
                op = _communication(queue[-1])
                stage = op.stage + (1 if op.kind == Kind.SEND_F else -1)
                wanted = f"{stage}{op.kind.name.replace('SEND', 'RECV')}{op.microbatch}"
                peer = queues[at[stage]]
                if peer and peer[-1] == wanted:
                    queue.pop()
                    peer.pop()
                    moved = True
    assert queues == [[], [], [], []]


def test_every_compute_op_comes_after_what_it_needs(program: Program) -> None:
    """A receive precedes the op that uses it, and a send follows the op that makes it."""
    for row in rows(compute_comms(program)):
        seen: set[str] = set()
        for cell in row:
            seen.add(cell)
            if "SEND" in cell:
                op = _communication(cell)
                kinds = "F" if op.kind == Kind.SEND_F else "IB"
                assert any(_ran(seen, f"{op.stage}{kind}{op.microbatch}") for kind in kinds)
            elif "RECV" in cell:
                op = _communication(cell)
                kinds = "F" if op.kind == Kind.RECV_F else "IB"
                assert not any(_ran(seen, f"{op.stage}{kind}{op.microbatch}") for kind in kinds)


@pytest.mark.parametrize("write", [compute_only, compute_comms])
@pytest.mark.parametrize(
    ("schedule", "why"),
    [("chimera", "2 routes, so a stage lives on several ranks"), ("pipedream", "optimizer steps between")],
)
def test_schedules_that_cannot_be_expressed_are_refused(write: Any, schedule: str, why: str) -> None:
    with pytest.raises(PipesimError, match=f"PyTorch's pipeline runtime cannot run this schedule: .*{why}"):
        write(program_of(schedule))


@pytest.mark.parametrize(("name", "kind"), [("torch-csv", "compute_only"), ("torch-csv-comms", "compute_comms")])
def test_pytorch_loads_it(program: Program, name: str, kind: Any, tmp_path: Path) -> None:
    schedules = pytest.importorskip("torch.distributed.pipelining.schedules", reason="PyTorch is not installed")
    file = tmp_path / "schedule.csv"
    file.write_text(FORMATS[name](program))
    stage = SimpleNamespace(num_stages=program.placement.stages, group_size=4, group_rank=0)
    runtime = schedules._PipelineScheduleRuntime([stage], 8)
    runtime._load_csv(str(file), format=kind)
    loaded = runtime.pipeline_order_with_comms
    compute = [[str(action) for action in loaded[rank] if action.is_compute_op] for rank in range(4)]
    assert compute == [[_as_pytorch(op) for op in program.ops(rank)] for rank in range(4)]
    assert stage.stage_index_to_group_rank == dict(enumerate(program.placement.rank_of[0].tolist()))


def test_the_command_writes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipesim.cli import main

    config = tmp_path / "config.yaml"
    config.write_text("{pipeline: {ranks: 4, microbatches: 8}, costs: {}, schedule: 1f1b}")
    assert main(["export", str(config), "--to", "torch-csv", str(tmp_path / "out.csv")]) == 0
    assert (tmp_path / "out.csv").read_text() == compute_only(program_of("1f1b"))
    assert main(["export", str(config), "--set", "schedule.name=chimera", "-"]) == 2
    assert "cannot run this schedule" in capsys.readouterr().err


def rows(text: str) -> list[list[str]]:
    return list(csv.reader(text.splitlines()))


def _communication(cell: str) -> Op:
    op = parse(cell)
    assert isinstance(op, Op)
    assert op.kind not in COMPUTE_KINDS
    return op


def _ran(seen: set[str], token: str) -> bool:
    return any(token in cell.strip("()").replace(")OVERLAP_F_B", "").split(";") for cell in seen)


def _as_pytorch(op: Op | Pair) -> str:
    return f"{op}OVERLAP_F_B" if isinstance(op, Pair) else str(op)
