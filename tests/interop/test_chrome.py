"""Chrome traces show the same step as the timeline, in a form that Perfetto takes without complaint."""

from __future__ import annotations

import gzip
import itertools
import json
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from timeline_frames import memory_of, run, run_torch, with_communication

from pipesim.errors import PipesimError
from pipesim.interop.chrome import SHARED, events, microseconds, nanoseconds, token, write_trace
from pipesim.interop.flows import flows_of
from pipesim.interop.tracks import levels

PAIRS = run_torch("DualPipeV_p4_m8_v2.csv", 4, v_shape=True)
COMMUNICATION = with_communication(run("1f1b", 4, 8, hop=1))
FRAMES = {
    "1f1b": run("1f1b", 4, 8, hop=1),
    "pairs": PAIRS,
    "communication": COMMUNICATION,
    "zb-v": run_torch("ZBVZeroBubble_p4_m8_v2.csv", 4, v_shape=True),
    "awkward times": run("1f1b", 4, 8),
}
FRAMES["awkward times"][["start_s", "end_s"]] *= np.pi / 7


def of(found, phase):
    return [event for event in found if event["ph"] == phase]


def as_perfetto_reads(event):
    """Start and end in nanoseconds, as a reader gets them that cuts microseconds off below a nanosecond."""
    start = int(event["ts"] * 1000.0)
    return start, start + int(event["dur"] * 1000.0)


@pytest.mark.parametrize("name", FRAMES)
def test_slices_on_one_track_never_overlap(name):
    """Each begins where the one before has ended, or later, in whole nanoseconds."""
    by_track = defaultdict(list)
    for event in of(events(FRAMES[name]), "X"):
        by_track[event["pid"], event["tid"]].append(as_perfetto_reads(event))
    assert sum(map(len, by_track.values())) == len(FRAMES[name])
    for slices in by_track.values():
        for (_, end), (start, _) in itertools.pairwise(sorted(slices)):
            assert start >= end


def test_every_op_is_a_slice_with_its_token_and_time():
    """Names are PyTorch's actions; process is the rank; microseconds are the timeline's."""
    frame = FRAMES["1f1b"]
    found = {(e["pid"], e["name"]): e for e in of(events(frame), "X")}
    for row in frame.itertuples():
        event = found[row.rank, f"{row.stage}{row.kind}{row.microbatch}"]
        assert as_perfetto_reads(event) == (round(row.start_s * 1e9), round(row.end_s * 1e9))
        assert event["cat"] == row.kind
        assert (event["args"]["stage"], event["args"]["microbatch"]) == (row.stage, row.microbatch)


def test_there_is_a_process_per_rank_and_a_track_per_stream():
    """Named, and compute first."""
    found = list(events(COMMUNICATION))
    names = {(e["name"], e["pid"], e.get("tid")): e["args"] for e in of(found, "M")}
    assert [names["process_name", r, None]["name"] for r in range(4)] == [f"rank {r}" for r in range(4)]
    tracks = {names["thread_name", 1, t]["name"]: t for t in range(3)}
    assert tracks == {"compute": 0, "collective": 1, "p2p-send": 2}


def test_overlapped_pairs_lie_on_two_tracks():
    """The second op of each pair goes to a track of its own."""
    found = list(events(PAIRS))
    names = {e["tid"]: e["args"]["name"] for e in of(found, "M") if e["name"] == "thread_name"}
    assert names == {0: "compute", 1: "compute, overlapped"}
    second = [e for e in of(found, "X") if e["tid"] == 1]
    assert len(second) == PAIRS.pair.max() + 1


def test_arrows_join_producers_and_consumers_on_other_ranks():
    """1F1B on 4 ranks: 3 boundaries, forward and backward, 8 micro-batches; each from end to start."""
    frame = FRAMES["1f1b"]
    pairs = flows_of(frame)
    assert len(pairs) == 2 * 3 * 8
    for source, target in pairs:
        a, b = frame.iloc[source], frame.iloc[target]
        assert (a.kind, a.microbatch) == (b.kind, b.microbatch)
        assert b.stage - a.stage == (1 if a.kind == "F" else -1)
        assert a.end_s + 1e-3 <= b.start_s + 1e-12


def test_arrows_start_and_end_within_their_slices():
    """Perfetto binds an arrow to the slice that encloses its time, so it must lie inside."""
    found = list(events(FRAMES["1f1b"]))
    slices = defaultdict(list)
    for event in of(found, "X"):
        slices[event["pid"], event["tid"]].append((*as_perfetto_reads(event), event["name"]))
    ends = defaultdict(dict)
    for event in of(found, "s") + of(found, "f"):
        time = int(event["ts"] * 1000.0)
        (name,) = [n for start, end, n in slices[event["pid"], event["tid"]] if start <= time < end]
        ends[event["id"]][event["ph"]] = name
    assert len(ends) == 48
    assert all(set(pair) == {"s", "f"} for pair in ends.values())
    assert {"s": "0F0", "f": "1F0"} in ends.values()


def test_sends_that_are_ops_are_where_arrows_start():
    """With a send stream, an arrow leaves the send; receives, if there are any, are where it ends."""
    pairs = flows_of(COMMUNICATION)
    kinds = COMMUNICATION.kind.to_numpy()
    assert len(pairs) == 48
    assert {(kinds[a], kinds[b]) for a, b in pairs} == {("SEND_F", "F"), ("SEND_B", "B")}
    receives = COMMUNICATION[COMMUNICATION.kind == "SEND_F"].assign(
        kind="RECV_F", stage=lambda f: f.stage + 1, rank=lambda f: f["rank"] + 1, resource="p2p-receive"
    )
    both = pd.concat([COMMUNICATION, receives], ignore_index=True)
    kinds = both.kind.to_numpy()
    assert {(kinds[a], kinds[b]) for a, b in flows_of(both)} == {("SEND_F", "RECV_F"), ("SEND_B", "B")}


def test_flows_can_be_given():
    """They replace the derived ones."""
    assert len(of(events(FRAMES["1f1b"], flows=[(0, 9)]), "s")) == 1


def test_micro_batches_in_flight_are_counted_from_f_to_b():
    """1F1B holds at most P - r on rank r, ends with none, and rises in whole micro-batches."""
    counters = [e for e in of(events(FRAMES["1f1b"]), "C") if e["name"] == "micro-batches in flight"]
    for rank in range(4):
        values = [e["args"]["in flight"] for e in counters if e["pid"] == rank]
        assert max(values) == 4 - rank
        assert values[-1] == 0
        assert all(value == int(value) for value in values)


def test_a_chunk_counts_its_share():
    """Interleaved with two chunks rises in halves; its peak on rank 0 is min(2(P-1) + P + 1, 2M)/2 = 5.5."""
    frame = run("interleaved-1f1b", 4, 8, chunks=2)
    values = [e["args"]["in flight"] for e in of(events(frame), "C") if e["pid"] == 0]
    assert max(values) == 5.5


def test_memory_counters_carry_every_category():
    """Whenever one category changes, all are given, and they are the table's values."""
    frame = FRAMES["1f1b"]
    memory = memory_of(frame)
    found = [e for e in of(events(frame, memory), "C") if e["name"] == "memory (bytes)" and e["pid"] == 0]
    assert {tuple(sorted(e["args"])) for e in found} == {("activations", "gradients", "optimizer", "weights")}
    assert max(e["args"]["activations"] for e in found) == 4 * 4e9
    assert {e["args"]["weights"] for e in found} == {7.5e9}
    assert [e["ts"] for e in found] == sorted(e["ts"] for e in found)


def test_idle_time_is_told():
    """Rank 3's first backward waits for nothing; rank 0's waits for the whole round trip."""
    slices = {e["name"]: e["args"] for e in of(events(run("1f1b", 4, 8)), "X")}
    assert slices["3B0"]["idle_before_us"] == 0
    assert slices["0B0"]["idle_before_us"] == 12_000


def test_streams_that_no_rank_owns_have_their_own_process():
    """A barrier shared by all."""
    barrier = {"rank": -1, "resource": "shared", "kind": "BARRIER", "stage": -1, "microbatch": -1, "route": -1}
    frame = pd.concat([FRAMES["1f1b"], pd.DataFrame([{**barrier, "start_s": 1.0, "end_s": 1.0, "pair": -1}])])
    (event,) = [e for e in of(events(frame), "X") if e["pid"] == SHARED]
    assert event["name"] == "BARRIER"
    assert set(event["args"]) == {"idle_before_us"}


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_files_are_json_and_the_same_every_time(name, tmp_path):
    """Twice written, byte-identical; unpacked, the events."""
    frame, memory = FRAMES["communication"], memory_of(FRAMES["communication"])
    first, second = (write_trace(frame, memory, tmp_path / sub).read_bytes() for sub in (name, f"b{name}"))
    assert first == second
    text = gzip.decompress(first) if name.endswith(".gz") else first
    assert json.loads(text)["traceEvents"] == list(events(frame, memory))


def test_other_suffixes_and_places_are_refused(tmp_path):
    """Nothing is left behind."""
    with pytest.raises(PipesimError, match=r"\.json or \.json\.gz"):
        write_trace(FRAMES["1f1b"], None, tmp_path / "trace.pb")
    with pytest.raises(PipesimError, match="cannot be written"):
        write_trace(FRAMES["1f1b"], None, tmp_path / "no" / "trace.json")
    assert list(tmp_path.iterdir()) == []


@given(st.integers(0, 10**15))
def test_times_survive_a_reader_that_cuts_off(ns):
    """A step may last eleven days; every nanosecond comes back, cut off or rounded."""
    value = json.loads(json.dumps(microseconds(ns)))
    assert int(value * 1000.0) == ns == round(value * 1000.0)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), max_size=30))
def test_levels_never_overlap_and_are_as_few_as_can_be(intervals):
    """On one level intervals are disjoint; the number of levels is the largest number at one time."""
    start = np.array([a for a, _ in intervals], np.int64)
    end = start + np.array([n for _, n in intervals], np.int64)
    level = levels(start, end)
    for one in np.unique(level):
        own = sorted(zip(start[level == one], end[level == one], strict=True))
        assert all(b >= a for (_, a), (b, _) in itertools.pairwise(own))
    at_once = max((int(((start <= t) & (t < end)).sum()) for t in start), default=0)
    assert level.max(initial=-1) + 1 == at_once


def test_tokens_leave_out_what_is_not_there():
    """An optimizer step has no micro-batch, a barrier no stage."""
    assert [token(2, "F", 5), token(3, "OPT", -1), token(-1, "BARRIER", -1)] == ["2F5", "3OPT", "BARRIER"]


def test_nanoseconds_are_rounded():
    """Not cut off: 0.3 s is 299999999.99999994 in doubles times 1e9."""
    assert nanoseconds(np.array([0.3, 1e-9, 0.1 + 0.2])).tolist() == [300_000_000, 1, 300_000_000]
