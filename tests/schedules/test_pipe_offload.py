"""PipeOffload: its base order, and its peaks with copies beside those of the released scheduler."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from replay import idle, peak_in_flight, replay

import pipesim
from pipesim.costs.unit import unit_costs
from pipesim.engine import compiled
from pipesim.errors import ConfigError, ScheduleError
from pipesim.ir.op import Kind
from pipesim.lowering.bind import bind
from pipesim.lowering.lower import Lowering, lower
from pipesim.lowering.memory import activation_effects
from pipesim.metrics.memory import peaks, resident
from pipesim.schedules import Setting, create

DATA = Path(__file__).parents[1] / "data" / "pipe_offload"
PLACEMENTS = list(csv.DictReader((DATA / "placements.csv").read_text().splitlines()))
BOTH_WAYS = 0.7
"""The released scheduler lets copies of the warm-up, which meet none the other way, take 0.7 of their time."""


@pytest.mark.parametrize(
    ("d", "m", "v", "bubble", "peak"),
    [
        (4, 8, 2, 9, 7),
        (4, 12, 3, 14, 8),
        (8, 16, 2, 23, 13),
        (8, 24, 3, 34, 16),
        (8, 32, 4, 41, 23),
        (8, 16, 5, 56, 24),
        (16, 32, 2, 51, 25),
        (16, 32, 3, 74, 32),
    ],
)
def test_base_bubble_and_peak(d, m, v, bubble, peak):
    """Without offloading, in chunks of F = I = W = 1; the peak falls by one per rank."""
    program = create("pipe-offload", chunks=v, offload="none").program(Setting(d, m))
    assert idle(replay(program)) == [bubble] * d
    assert peak_in_flight(program) == [peak - r for r in range(d)]
    assert bubble < v * (d - 1) * 3  # Table 1's bound


def test_the_order_is_that_of_groups_of_one():
    """Whose tokens are compared with the released scheduler's in the tests of generalised interleaving."""
    ours = create("pipe-offload", chunks=3).program(Setting(4, 9))
    assert ours.grid() == create("gis", chunks=3, group_size=1).program(Setting(4, 9)).grid()


def label(row):
    return "-".join(row[key] for key in ("p", "m", "v", "offload_chunk_num", "k_equiv"))


@cache
def placed(p, m, v, chunks, k, shared, copies):
    """Peaks per rank in chunks and copies made, of chunks that take three units; None where refused.

    Also that the step is as long as without copies.
    """
    schedule = create("pipe-offload", chunks=v, offload=chunks / v, copies=copies)
    program = schedule.program(Setting(p, m))
    costs = unit_costs(p * v, p, offload=3 * k)
    if shared:
        costs = replace(costs, host=replace(costs.host, switch=np.arange(p) // 2, alone=BOTH_WAYS))
    try:
        graph = bind(lower(program, costs, Lowering(offload=schedule.offloading)), costs)
    except ScheduleError:
        return None
    timeline = compiled.run(graph)
    assert timeline.makespan == compiled.run(bind(lower(program, costs), costs)).makespan
    found = peaks(timeline, activation_effects(graph, costs.sizes), resident(graph, costs)).activations
    return found, int((graph.kind == Kind.OFFLOAD).sum())


def arguments(row):
    return *(int(row[key]) for key in ("p", "m", "v", "offload_chunk_num")), float(row["k_equiv"])


def test_all_placements_are_there():
    """Peaks and errors."""
    assert (len(PLACEMENTS), sum(row["peak_after"] == "error" for row in PLACEMENTS)) == (80, 18)


@pytest.mark.parametrize("row", PLACEMENTS, ids=label)
def test_peaks_on_links_of_their_own(row):
    """Never more than the released scheduler's, and never refused where that one finds a placement."""
    found = placed(*arguments(row), False, "packed")
    if row["peak_after"] != "error":
        assert found[0].max() <= max(map(int, row["peak_after"].split()))


@pytest.mark.parametrize("row", PLACEMENTS, ids=label)
def test_peaks_on_shared_links(row):
    """Two ranks per switch, which never copy the same way at once: at most one chunk more."""
    found = placed(*arguments(row), True, "packed")
    if row["peak_after"] != "error":
        assert found[0].max() <= max(map(int, row["peak_after"].split())) + 1


@pytest.mark.parametrize("row", PLACEMENTS, ids=label)
def test_peaks_of_alternating_copies(row):
    """As released: within one chunk, both ways, as long as links have time to spare."""
    p, m, v, chunks, k = arguments(row)
    found = placed(p, m, v, chunks, k, True, "alternating")
    if row["peak_after"] != "error":
        # Where copies fill all slots of a direction, one that is missed is missed for good: peaks then hang on ties.
        assert found is not None
        assert chunks / v * k == 1 or abs(found[0].max() - max(map(int, row["peak_after"].split()))) <= 1


@pytest.mark.parametrize("row", PLACEMENTS, ids=label)
def test_refused_is_what_takes_longer_than_computing(row):
    """Copies of a share s keep up as long as s k <= 1, also where the released scheduler gives up at s k = 1."""
    p, m, v, chunks, k = arguments(row)
    assert (placed(p, m, v, chunks, k, False, "packed") is None) == (chunks / v * k > 1)


def test_half_of_many_chunks_leaves_a_quarter_of_the_peak():
    """Sixteen chunks on eight ranks: Figure 3 of the paper, and (V+2)/(8V) of 1F1B's M in its Table 1."""
    peak, _ = placed(8, 32, 16, 8, 0.2, False, "packed")
    base = max(peak_in_flight(create("pipe-offload", chunks=16).program(Setting(8, 32))))
    assert 0.2 < peak.max() / base < 0.3
    assert peak.max() / (8 * 16) == pytest.approx((16 + 2) / (8 * 16), rel=0.15)  # "about", in the paper


def abstract(**schedule):
    return {
        "pipeline": {"ranks": 4, "microbatches": 12},
        "costs": {"forward": 1, "input_grad": 1, "weight_grad": 1, "offload": 4},
        "memory": {"activation": 1, "weight_grad_share": 1},
        "schedule": {"name": "pipe-offload", "chunks": 2, **schedule},
    }


def test_a_refusal_says_which_share_would_do():
    """And with that share it runs; so it does with links that are as fast as it says."""
    with pytest.raises(ConfigError) as caught:
        pipesim.simulate(abstract(offload="full"))
    message = str(caught.value)
    assert "schedule: copying a share" in message
    assert "takes 1.33 times as long as computing" in message
    assert "a share of 0.75 can" in message
    assert pipesim.simulate(abstract(offload=0.75)).metrics["offload"]["copies"] > 0
    faster = abstract(offload="full")
    faster["costs"]["offload"] = 4 / 1.3334
    assert pipesim.simulate(faster).metrics["offload"]["copies"] > 0


@pytest.mark.parametrize("name", ["pipe-offload", "gis", "gis-h"])
def test_more_offloaded_is_less_held(name):
    """The peak falls with the share and the step stays as long, for each schedule that can offload."""
    results = [
        pipesim.simulate({**abstract(), "schedule": {"name": name, "chunks": 2, "offload": offload}})
        for offload in ("none", 0.25, "half", 0.75)
    ]
    held = [result.metrics["memory"]["peak_bytes"] for result in results]
    assert held == sorted(held, reverse=True)
    assert held[-1] < held[0]
    assert len({result.metrics["step_time_s"] for result in results}) == 1
    assert results[0].metrics["offload"] is None


def test_a_share_is_at_most_one():
    """The message says so."""
    with pytest.raises(ScheduleError, match=r"a share from 0 to 1, found 1\.5"):
        create("pipe-offload", offload=1.5).program(Setting(4, 8))


def test_an_odd_number_of_chunks_rounds_half_up():
    """Half of three chunks are the first two."""
    assert create("pipe-offload", chunks=3).offloading.share == pytest.approx(2 / 3)
    assert create("gis", chunks=3).offloading is None
