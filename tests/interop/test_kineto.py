"""Traces of real runs become tables of ops that agree with the clocks of the ops themselves."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import pipesim
from pipesim.interop.kineto import read_kineto
from pipesim.interop.observation import TraceError

DATA = Path(__file__).parents[1] / "data" / "kineto"
CLOCKS = json.loads((DATA / "clocks.json").read_text())


def files(name: str) -> list[Path]:
    return sorted((DATA / name).glob("*.gz"))


def slice_of(name: str, ts: Any, dur: Any, pid: int = 1, **more: Any) -> dict[str, Any]:
    return {"ph": "X", "name": name, "pid": pid, "tid": pid, "ts": ts, "dur": dur, **more}


def written(path: Path, events: list[Any], **header: Any) -> Path:
    path.write_text(json.dumps({**header, "traceEvents": events}))
    return path


def ops(paths: list[Path]) -> list[tuple[int, str, float, float]]:
    frame = read_kineto(paths).frame
    tokens = frame["stage"].astype(str) + frame["kind"] + frame["microbatch"].astype(str)
    return list(zip(frame["rank"], tokens, frame["start_s"].round(9), frame["end_s"].round(9), strict=True))


@pytest.mark.parametrize("name", CLOCKS)
def test_ops_are_where_their_own_clocks_say(name: str) -> None:
    """An annotation is opened before the op's work starts and closed after it ends, by PyTorch's overhead."""
    clocks = {(stage, kind, mb): (start, end) for stage, kind, mb, start, end in CLOCKS[name]["ops"]}
    frame = read_kineto(files(name)).frame
    seen = {(row.stage, row.kind, row.microbatch): (row.start_s, row.end_s, row.pair) for row in frame.itertuples()}
    assert seen.keys() == clocks.keys()
    for op, (start, end, pair) in seen.items():
        if pair < 0:
            # 6 ms: what a thread may wait for a core on the busy machine that the trace is from; ops take 20 to 30 ms
            assert (start, end) == pytest.approx(clocks[op], abs=6e-3)


def test_waiting_for_a_message_is_no_work() -> None:
    """The first forward of rank 3 is annotated from the step's start on, but ran after three other forwards."""
    frame = read_kineto(files("interleaved-zb")).frame
    first = frame[frame["rank"] == 3].iloc[0]
    assert first["start_s"] > 0.09
    assert first["end_s"] - first["start_s"] == pytest.approx(0.03, abs=6e-3)  # 30 ms were configured


def test_overlapped_pairs_are_two_ops_at_one_time() -> None:
    frame = read_kineto(files("dualpipe-v")).frame
    pairs = frame[frame["pair"] >= 0].groupby(["rank", "pair"])
    assert len(pairs) > 0
    for _, rows in pairs:
        assert sorted(rows["kind"]) == ["B", "F"]
        assert rows[["start_s", "end_s"]].nunique().tolist() == [1, 1]


def test_ranks_are_numbered_by_their_first_stage_whatever_the_order_of_the_files() -> None:
    forwards, backwards = (read_kineto(paths).frame for paths in (files("dualpipe-v"), files("dualpipe-v")[::-1]))
    assert forwards.equals(backwards)
    assert forwards.groupby("rank")["stage"].unique().map(set).tolist() == [{0, 3}, {1, 2}]


def test_kernels_are_the_ops_where_there_are_any(tmp_path: Path) -> None:
    """Launched by any thread, inside the annotation; communication kernels do not count."""

    def kernel(name: str, number: int, launch: float, ts: float, dur: float) -> list[dict[str, Any]]:
        both = {"args": {"correlation": number}}
        launched = slice_of("cudaLaunchKernel", launch, 1, cat="cuda_runtime", **both)
        return [launched, {**slice_of(name, ts, dur, pid=0, cat="kernel", **both), "tid": 7}]

    path = written(
        tmp_path / "gpu.json",
        [
            slice_of("PP:0F0", 0, 10, cat="user_annotation"),
            slice_of("PP:0B0", 20, 10, cat="user_annotation"),
            *kernel("gemm", 1, 2, 100, 50),
            *kernel("gemm", 2, 8, 150, 30),
            *kernel("ncclDevKernel_AllReduce", 3, 9, 150, 500),
            *kernel("gemm", 4, 25, 180, 70),
            *kernel("other", 5, 40, 900, 1),
            slice_of("PP:0F0", 100, 80, pid=0, cat="gpu_user_annotation"),
        ],
    )
    assert ops([path]) == [(0, "0F0", 0.0, 80e-6), (0, "0B0", 80e-6, 150e-6)]


def test_clocks_of_files_are_put_together(tmp_path: Path) -> None:
    a = written(tmp_path / "a.json", [slice_of("PP:0F0", 5, 1)], baseTimeNanoseconds=10**18)
    b = written(tmp_path / "b.json", [slice_of("PP:1F0", 1, 1)], baseTimeNanoseconds=10**18 + 6000)
    assert ops([a, b]) == [(0, "0F0", 0.0, 1e-6), (1, "1F0", 2e-6, 3e-6)]


def test_steps_are_told_apart_and_partial_ones_left_out(tmp_path: Path) -> None:
    names = ["PP:0F0", "PP:0B0"] * 2 + ["PP:0F0"]
    path = written(tmp_path / "a.json", [slice_of(name, 10 * i, 5) for i, name in enumerate(names)])
    found = read_kineto([path])
    assert found.frame["step"].tolist() == [0, 0, 1, 1]
    assert list(found.notes) == ["steps recorded only in part were left out: 2"]


def test_replicas_are_left_out_and_missing_ranks_named(tmp_path: Path) -> None:
    paths = [
        written(tmp_path / f"{i}.json", [slice_of(f"PP:{stage}F0", i, 1), slice_of(f"PP:{stage}B0", 9, 1)])
        for i, stage in enumerate([0, 0, 2])
    ]
    found = read_kineto(paths)
    assert found.frame["stage"].tolist() == [0, 0, 2, 2]
    assert found.frame["rank"].tolist() == [0, 0, 1, 1]
    assert len(found.notes) == 2
    assert "first replica" in found.notes[0]
    assert found.notes[1] == "stages 1 are missing: traces of their ranks were not given"


def test_schedules_without_actions_are_read_by_rank(tmp_path: Path) -> None:
    """1F1B and GPipe with one stage per rank name only micro-batches."""
    paths = [
        written(
            tmp_path / f"{rank}.json",
            [slice_of("Forward 0", rank, 1), slice_of("Backward 0", 5 - rank, 1)],
            distributedInfo={"rank": rank},
        )
        for rank in (1, 0)
    ]
    assert [op[:2] for op in ops(paths)] == [(0, "0F0"), (0, "0B0"), (1, "1F0"), (1, "1B0")]


def test_replicas_may_be_recorded_in_part(tmp_path: Path) -> None:
    """The second replica's recording began after its first forward."""
    paths = [
        written(tmp_path / f"{i}.json", [slice_of(f"PP:0{op}", 9 * at, 1) for at, op in enumerate(names)])
        for i, names in enumerate((["F0", "F1", "B0", "B1"], ["F1", "B1"]))
    ]
    found = read_kineto(paths)
    assert [op[:2] for op in ops(paths)] == [(0, "0F0"), (0, "0F1"), (0, "0B0"), (0, "0B1")]
    assert "first replica" in found.notes[0]


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1", "dualpipe-v", "chimera", "bitpipe", "dualpipe"])
def test_our_own_traces_are_read_back(schedule: str, tmp_path: Path) -> None:
    result = pipesim.simulate(
        {"pipeline": {"ranks": 4, "microbatches": 8}, "costs": {"p2p": 0.1}, "schedule": schedule}
    )
    result.write_trace(tmp_path / "trace.json.gz")
    observed = read_kineto([tmp_path / "trace.json.gz"])
    frame = observed.frame
    assert observed.notes == ()
    compute = result.timeline[result.timeline["resource"] == "compute"]
    expected = compute[["rank", "stage", "microbatch", "route", "start_s", "end_s"]].sort_values(
        ["rank", "start_s", "stage"]
    )
    found = frame[expected.columns.tolist()].sort_values(["rank", "start_s", "stage"])
    assert found.to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-8)  # traces hold nanoseconds


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not JSON, or cut off"),
    "no JSON": (b"hello", "not JSON"),
    "binary": (b"\xff\xfe\x00", "not JSON"),
    "a number": (b"7", "no list 'traceEvents'"),
    "an object": (b'{"a": 1}', "no list 'traceEvents'"),
    "no events": (b"[]", "no pipeline in it"),
    "no pipeline": (b'[{"ph": "X", "name": "aten::add", "ts": 1, "dur": 1}, 7, null]', "no pipeline in it"),
    "communication only": (b'[{"ph": "X", "name": "PP:0SEND_F0", "ts": 1, "dur": 1}]', "no pipeline in it"),
    "no times": (b'[{"ph": "X", "name": "PP:0F0"}]', "'PP:0F0' has no usable time"),
    "bad times": (b'[{"ph": "X", "name": "PP:0F0", "ts": NaN, "dur": 1}]', "no usable time"),
    "negative": (b'[{"ph": "X", "name": "PP:0F0", "ts": 1, "dur": -1}]', "no usable time"),
    "nested": (b"[" * 100_000, "not JSON, or cut off"),
    "cut off": (gzip.compress(b'{"traceEvents": []}' * 99)[:-20], "damaged or cut off"),
    "damaged": (b"\x1f\x8bhello", "damaged or cut off"),
    "cut off inside": (gzip.compress(b'{"traceEvents": [{"ph": "X", "na'), "not JSON, or cut off"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_trace_is_said_to_be_none(what: str, tmp_path: Path) -> None:
    content, message = HOSTILE[what]
    path = tmp_path / "trace.json"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=r"trace\.json: ") as caught:
        read_kineto([path])
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"nowhere\.json: cannot be read: No such file"):
        read_kineto([tmp_path / "nowhere.json"])


def test_files_of_different_pipelines_are_refused(tmp_path: Path) -> None:
    a = written(tmp_path / "a.json", [slice_of("PP:0F0", 1, 1), slice_of("PP:1F0", 2, 1)])
    b = written(tmp_path / "b.json", [slice_of("PP:1F0", 1, 1)])
    with pytest.raises(TraceError, match="not one pipeline"):
        read_kineto([a, b])
