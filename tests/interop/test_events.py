"""Event tables of production tracers."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipesim.interop.events import read_events
from pipesim.interop.observation import TraceError
from pipesim.study.trace import read_trace

TABLE = Path(__file__).parents[1] / "data" / "event_table" / "st_ideal.csv"


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "events.csv"
    path.write_text(text)
    return path


def test_kinds_and_streams_of_a_real_tracer_are_understood() -> None:
    found = read_events(TABLE)
    counts = found.frame.groupby(["resource", "kind"]).size().to_dict()
    assert counts == {
        ("compute", "F"): 16,
        ("compute", "B"): 16,
        ("compute", "OPT"): 4,
        ("p2p", "SEND_F"): 12,
        ("p2p", "RECV_F"): 12,
        ("p2p", "SEND_B"): 12,
        ("p2p", "RECV_B"): 12,
        ("collective", "UNSHARD"): 4,
        ("collective", "REDUCE_GRAD"): 10,
    }
    assert set(found.frame.loc[found.frame["kind"] == "OPT", "microbatch"]) == {-1}
    assert list(found.notes) == ["events of these kinds were left out: gc, optimizer-clip-main-grad"]


def test_units_and_other_names_of_columns(tmp_path: Path) -> None:
    found = read_events(table(tmp_path, "pp_rank,op,start_ms,dur_us\n0,F,1,500\n0,B,2,1000\n")).frame
    assert found[["kind", "microbatch"]].to_numpy().tolist() == [["F", 0], ["B", 0]]
    assert found["start_s"].tolist() == pytest.approx([0.0, 1e-3])
    assert found["end_s"].tolist() == pytest.approx([0.5e-3, 2e-3])


def test_chunks_are_stages_of_the_model(tmp_path: Path) -> None:
    rows = "0,0,F,0,1\n1,0,F,1,1\n0,1,F,2,1\n1,1,F,3,1\n"
    found = read_events(table(tmp_path, "stage,mc,kind,start,duration\n" + rows)).frame
    assert found[["rank", "stage"]].to_numpy().tolist() == [[0, 0], [0, 2], [1, 1], [1, 3]]


def test_micro_batches_are_counted_where_they_are_not_given(tmp_path: Path) -> None:
    rows = "0,F,3,1\n0,F,0,1\n0,B,5,1\n0,B,7,1\n"
    found = read_events(table(tmp_path, "stage,kind,start,duration\n" + rows)).frame
    assert found[["kind", "microbatch", "start_s"]].to_numpy().tolist() == [
        ["F", 0, 0.0],
        ["F", 1, 3.0],
        ["B", 0, 5.0],
        ["B", 1, 7.0],
    ]


def test_steps_that_each_begin_at_zero_follow_one_another(tmp_path: Path) -> None:
    rows = "7,0,F,0,1\n7,0,B,1,2\n9,0,F,0,1\n9,0,B,1,3\n"
    found = read_events(table(tmp_path, "step,stage,kind,start,duration\n" + rows))
    assert found.steps == [7, 9]
    assert found.frame["start_s"].tolist() == [0.0, 1.0, 3.0, 4.0]
    assert found.of_step(9)["start_s"].tolist() == [0.0, 1.0]


def test_one_replica_is_kept(tmp_path: Path) -> None:
    found = read_events(table(tmp_path, "dp_rank,stage,kind,start,duration\n1,0,F,0,1\n3,0,F,0,2\n"))
    assert found.frame["end_s"].tolist() == [1.0]
    assert list(found.notes) == ["2 data-parallel replicas; replica 1 was kept"]


def test_ranks_that_are_missing_are_named_and_not_taken_for_idle(tmp_path: Path) -> None:
    """Measures are those of the ranks that are there."""
    head, *rows = TABLE.read_text().splitlines()
    kept = [row for row in rows if row.split(",")[1] != "1"]
    found = read_trace(table(tmp_path, "\n".join([head, *kept])))
    assert found.observation.notes[-1].startswith("3 of 4 pipeline ranks are in the table")
    assert found.timeline().groupby("rank")["stage"].max().tolist() == [0, 2, 3]
    measured, whole = (each.metrics()["bubble_fraction"] for each in (found, read_trace(TABLE)))
    assert measured == pytest.approx(whole)
    assert found.result() is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a table"),
        ("stage,kind,start\n0,F,1\n", "no column for duration; found stage, kind, start; duration: duration, dur"),
        ("stage,kind,start,duration\n", "no rows"),
        ("stage,kind,start,duration\n0,F,soon,1\n", "column start, row 1: 'soon' is not a number"),
        ("stage,kind,start,duration\n0,F,inf,1\n", "column start, row 1: 'inf' is not a number"),
        ("stage,kind,start,duration\n0,F,0,nan\n", "column duration, row 1: 'nan' is not a number"),
        ("pp,kind,start,duration\n0,F,0,1\n1.5,F,0,1\n", "column pp, row 2: '1.5' is not a whole number from 0 on"),
        ("pp,kind,start,duration\n-1,F,0,1\n", "column pp, row 1: '-1' is not a whole number from 0 on"),
        ("pp,kind,start,duration\n1e30,F,0,1\n", "column pp, row 1: '1e+30' is not a whole number"),
        ("mb,stage,kind,start,duration\n0.5,0,F,0,1\n", "column mb, row 1: '0.5' is not a whole number"),
        ("stage,kind,start,duration\n0,forward-comptue,0,1\n", "did you mean forward-compute?"),
        ("stage,kind,start,duration\n0,optimizer,0,1\n", "there is no pipeline op in it"),
        ("stage,kind,start,duration\n0,F,0,-1\n", "0F0 ends before it starts"),
    ],
)
def test_bad_tables_are_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TraceError, match=r"events\.csv: ") as caught:
        read_events(table(tmp_path, text))
    assert message in str(caught.value)


def test_a_file_that_is_no_text_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(TraceError, match="not a table"):
        read_events(path)
