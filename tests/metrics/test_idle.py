"""Every idle interval has a cause and a name, and together they are the idle time of the breakdown."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given, settings
from whole_steps import step, steps

from pipesim.ir.timeline import PICOSECONDS
from pipesim.lowering.lower import Lowering
from pipesim.metrics.breakdown import breakdown
from pipesim.metrics.frame import idle_frame, timeline_frame
from pipesim.metrics.idle import Cause, idle

PART_OF = {cause: cause.name.lower() for cause in Cause} | {Cause.SYNCHRONISATION: "drain"}
WAITING = ["exposed_p2p", "exposed_collective", "warmup", "dependency", "drain"]


@settings(deadline=None, max_examples=80)
@given(steps)
def test_lengths_per_cause_are_the_breakdown(stepped):
    """To the picosecond, on every rank; synchronisation counts as drain."""
    timeline, _ = stepped
    found, parts = idle(timeline), breakdown(timeline)
    summed = {name: np.zeros(4, np.int64) for name in WAITING}
    for cause, name in PART_OF.items():
        chosen = found.cause == cause
        np.add.at(summed[name], found.rank[chosen], found.length[chosen])
    assert {name: total.tolist() for name, total in summed.items()} == {n: parts[n].tolist() for n in WAITING}


@settings(deadline=None, max_examples=80)
@given(steps)
def test_intervals_and_ops_tile_the_step(stepped):
    """On every rank, ops and idle intervals in order of time follow each other from the step's start to its end."""
    timeline, _ = stepped
    graph, found = timeline.graph, idle(timeline)
    for rank in range(4):
        own = slice(int(graph.starts[rank]), int(graph.starts[rank + 1]))
        mine = found.rank == rank
        start = np.concatenate([timeline.start[own], found.begin[mine]])
        end = np.concatenate([timeline.end[own], found.end[mine]])
        order = np.lexsort((end, start))
        assert start[order].tolist() == [timeline.origin, *end[order][:-1].tolist()]
        assert end.max() == timeline.finish


@settings(deadline=None, max_examples=40)
@given(steps)
def test_what_is_waited_for_exists_and_is_not_yet_done(stepped):
    """Every name is an op or transfer of the rank it is said to be on, and ends no earlier than the interval."""
    timeline, _ = stepped
    waits, table = idle_frame(timeline), timeline_frame(timeline)
    named = table["stage"].astype(str) + table["kind"].astype(str) + table["microbatch"].astype(str).replace("-1", "")
    table["token"] = np.where(table["stage"] >= 0, named, table["kind"].astype(str))
    exchanged = table[table["kind"].isin(["SEND_F", "RECV_F", "SEND_B", "RECV_B"])].groupby("token")["end_s"].max()
    found = waits.merge(table, left_on=["waiting_for", "on_rank"], right_on=["token", "rank"], how="left")
    ends = found["end_s_y"].fillna(found["waiting_for"].map(exchanged))
    # part of a backward is enough for the gradient buckets that leave before its end
    started = found["start_s_y"] < found["end_s_x"]
    assert ((ends >= found["end_s_x"]) | started).all()


def rows(frame: pd.DataFrame, rank: int) -> list[tuple[float, float, str, str, int]]:
    mine = frame[frame["rank"] == rank]
    times = (np.rint(mine[name] * PICOSECONDS).astype(int) for name in ("start_s", "end_s"))
    return list(zip(*times, mine["cause"], mine["waiting_for"], mine["on_rank"], strict=True))


def test_1f1b_by_hand():
    """P=4, M=4, F=3, B=9, hops of 2: the last rank waits for its third forward, then the fourth, then the end."""
    timeline, _ = step("1f1b", 4, hop=2)
    assert rows(idle_frame(timeline), 3) == [
        (0, 15, "warmup", "2F0", 2),
        (39, 41, "dependency", "2F2", 2),
        (41, 43, "exposed_p2p", "2SEND_F2", 2),
        (55, 57, "dependency", "2F3", 2),
        (57, 59, "exposed_p2p", "2SEND_F3", 2),
        (71, 104, "drain", "0B3", 0),
    ]


def test_blocking_transfers_are_named_from_the_end_that_waits():
    """The first rank sends its forwards and holds still meanwhile; then it receives the first gradient."""
    timeline, _ = step("1f1b", 2, lowering=Lowering(p2p="blocking"), hop=2)
    assert rows(idle_frame(timeline), 0)[:4] == [
        (3, 5, "exposed_p2p", "0SEND_F0", 1),
        (8, 10, "exposed_p2p", "0SEND_F1", 1),
        (10, 51, "dependency", "1B0", 1),
        (51, 53, "exposed_p2p", "0RECV_B0", 1),
    ]


def test_after_the_last_op_come_own_collectives_drain_and_synchronisation():
    """P=4, M=4, F=3, B=9, reductions of 9, a barrier, an optimizer step of 3.

    The last rank starts at 9, is done at 57 and reduces until 66. Rank 0 computes until 57 + 3 x 9 = 84 and reduces
    until 93: only then may all ranks step, so from 84 on the others wait for its reduction.
    """
    timeline, _ = step("1f1b", 4, reduce_grad=9, optimizer=3)
    assert rows(idle_frame(timeline), 3)[-3:] == [
        (57, 66, "exposed_collective", "3REDUCE_GRAD0", 3),
        (66, 84, "drain", "0REDUCE_GRAD0", 0),
        (84, 93, "synchronisation", "0REDUCE_GRAD0", 0),
    ]
    assert rows(idle_frame(timeline), 0)[-1] == (84, 93, "exposed_collective", "0REDUCE_GRAD0", 0)
