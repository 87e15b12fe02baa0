"""PipeDream, PipeDream-2BW and LayerPipe2: orders, delays, weight versions and the rate of a full pipeline.

The table of delays and versions, and the law of the period, are derived from the schedules' published delays:
PipeDream A updates between forward and backward with A stages behind (arXiv 1806.03377), 2BW one
(arXiv 2006.09503), LayerPipe2 2 A (arXiv 2512.08160).
"""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
from replay import costs, peak_in_flight, replay

import pipesim
from pipesim.engine import compiled, event
from pipesim.errors import ScheduleError
from pipesim.ir.connect import connect
from pipesim.ir.op import Kind
from pipesim.ir.verify import check_progress, verify
from pipesim.lowering.bind import bind
from pipesim.lowering.lower import Lowering, lower
from pipesim.metrics.steady import phases
from pipesim.metrics.versions import versions
from pipesim.schedules import Setting, create
from pipesim.schedules.asynchronous import steady_period

STASH = {"weights": "stash"}
SCHEMES = [("pipedream", {}), ("pipedream-2bw", {}), ("layerpipe2", {}), ("layerpipe2", STASH)]
IDS = ["pipedream", "2bw", "layerpipe2", "layerpipe2-stash"]


def program(name, ranks, microbatches, **options):
    return create(name, **options).program(Setting(ranks, microbatches))


def run(name, ranks, microbatches, forward=1, input_grad=1, weight_grad=1, hop=0, **options):
    """A whole run at integer costs, on both engines, which must agree."""
    schedule = create(name, **options)
    made = schedule.program(Setting(ranks, microbatches))
    verify(made)
    priced = costs(made, forward, input_grad, weight_grad, hop)
    lowering = Lowering(weights=schedule.weight_policy, second_engine=schedule.second_engine)
    graph = bind(lower(made, priced, lowering), priced)
    timeline = event.run(graph)
    assert np.array_equal(timeline.end, compiled.run(graph).end)
    return timeline


def period(timeline):
    window = phases(timeline).steady
    return Fraction(window.end - window.begin, window.microbatches)


def test_pipedream_steps_after_every_backward():
    """Warm-up of P-1-r forwards, then F, B and OPT in turn; nothing waits for the others' updates."""
    assert program("pipedream", 3, 4).grid().splitlines() == [
        "0 |   0F0   0F1   0F2   0B0 0OPT0   0F3   0B1 0OPT1   0B2 0OPT2   0B3 0OPT3",
        "1 |   1F0   1F1   1B0 1OPT0   1F2   1B1 1OPT1   1F3   1B2 1OPT2   1B3 1OPT3",
        "2 |   2F0   2B0 2OPT0   2F1   2B1 2OPT1   2F2   2B2 2OPT2   2F3   2B3 2OPT3",
    ]


def test_2bw_steps_once_per_group():
    """PipeDream's order with a step after the last backward of each group."""
    order = " ".join(program("pipedream-2bw", 2, 6, group=3).tokens(0))
    assert order == "0F0 0F1 0B0 0F2 0B1 0F3 0B2 0OPT2 0F4 0B3 0F5 0B4 0B5 0OPT5"


def test_layerpipe2_runs_two_clocks_ahead_per_stage_behind():
    """2(P-1-r) forwards before the first backward; split, W and OPT follow each I."""
    order = " ".join(program("layerpipe2", 2, 4).tokens(0))
    assert order == "0F0 0F1 0F2 0B0 0OPT0 0F3 0B1 0OPT1 0B2 0OPT2 0B3 0OPT3"
    split = " ".join(program("layerpipe2", 2, 3, engines=2, layers=2).tokens(1)[:8])
    assert split == "2F0 3F0 3I0 3W0 3OPT0 2I0 2W0 2OPT0"


def test_peaks_in_flight_at_four_ranks():
    """4, 3, 2, 1 against 7, 5, 3, 1."""
    assert peak_in_flight(program("pipedream", 4, 24)) == [4, 3, 2, 1]
    assert peak_in_flight(program("pipedream-2bw", 4, 24)) == [4, 3, 2, 1]
    assert peak_in_flight(program("layerpipe2", 4, 24)) == [7, 5, 3, 1]


TABLE = {  # A stages behind -> in flight, updates late, versions, extra copies of the weights
    "pipedream": lambda a: (a + 1, a, a + 1, a),
    "2bw": lambda a: (a + 1, 1, 2, 1),
    "layerpipe2": lambda a: (2 * a + 1, 2 * a, 1, int(a > 0)),
    "layerpipe2-stash": lambda a: (2 * a + 1, 2 * a, 2 * a + 1, 2 * a),
}
EXTRA_IN_ALL = {
    "pipedream": lambda p: p * (p - 1) // 2,
    "2bw": lambda p: p,
    "layerpipe2": lambda p: p - 1,
    "layerpipe2-stash": lambda p: p * (p - 1),
}


@pytest.mark.parametrize("ranks", range(2, 17))
@pytest.mark.parametrize(("name", "options"), SCHEMES, ids=IDS)
def test_table_of_versions_and_delays(name, options, ranks):
    """In flight, staleness, versions and extra weight memory of every stage, from the result of a run."""
    row = IDS[SCHEMES.index((name, options))]
    metrics = pipesim.simulate(
        {
            "pipeline": {"ranks": ranks, "microbatches": 6 * ranks},
            "memory": {"weights": 3.0},
            "schedule": {"name": name, **options},
        },
        engine="compiled",
    ).metrics
    stages, per_rank = metrics["asynchronous"]["stages"], metrics["ranks"]
    for stage in range(ranks):
        in_flight, late, kept, extra = TABLE[row](ranks - 1 - stage)
        assert per_rank[stage]["peak_in_flight"] == in_flight
        assert (stages[stage]["staleness"], stages[stage]["versions"]) == (late, kept)
        assert stages[stage]["extra_weights_bytes"] == 3.0 * extra
        assert per_rank[stage]["memory"]["weights_bytes"] == 3.0 * (1 + extra)
    assert sum(stage["extra_weights_bytes"] for stage in stages) == 3.0 * EXTRA_IN_ALL[row](ranks)


def updates_between(timeline, stage):
    """For every micro-batch, the stage's optimizer steps between the end of F and the start of the backward."""
    graph = timeline.graph
    of_stage = graph.stage == stage
    steps = np.flatnonzero(of_stage & (graph.kind == Kind.OPT))
    counts = []
    for microbatch in range(graph.microbatches):
        mine = of_stage & (graph.microbatch == microbatch)
        forward = np.flatnonzero(mine & (graph.kind == Kind.F))[0]
        backward = np.flatnonzero(mine & np.isin(graph.kind, (Kind.B, Kind.I)))[0]
        between = (timeline.start[steps] >= timeline.end[forward]) & (timeline.end[steps] <= timeline.start[backward])
        counts.append(int(between.sum()))
    return counts


@pytest.mark.parametrize("hop", [0, 2])
@pytest.mark.parametrize(("name", "options"), [*SCHEMES, ("layerpipe2", {"engines": 2})])
def test_updates_counted_on_the_timeline_are_the_delay(name, options, hop):
    """A and 2 A once A or 2 A micro-batches are through, and all before until then; 2BW: never more than one."""
    schedule, ranks = create(name, **options), 5
    timeline = run(name, ranks, 30, 3, 2, 2, hop, **options)
    for stage in range(ranks):
        counts, delay = updates_between(timeline, stage), schedule.warmup(ranks - 1 - stage)
        if name == "pipedream-2bw":
            assert set(counts) <= {0, 1}
        else:
            assert counts == [min(delay, microbatch) for microbatch in range(30)]


@pytest.mark.parametrize("group", [4, 5, 8])
def test_2bw_gradients_are_always_one_update_late(group):
    """W(t+1) = W(t) - lr grad(W(t-1)) on every stage, but for the first group, which has only the first weights."""
    timeline = run("pipedream-2bw", 4, 4 * group, group=group)
    for one in versions(timeline, create("pipedream-2bw").weight_policy):
        assert one.staleness.tolist() == [0] * group + [1] * 3 * group
        assert one.versions == 2


@pytest.mark.parametrize(("forward", "backward"), [(1, 2), (2, 2), (3, 1)])
@pytest.mark.parametrize("hop", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize(("name", "in_flight"), [("pipedream", 1), ("pipedream-2bw", 1), ("layerpipe2", 2)])
def test_throughput_law(name, in_flight, ranks, hop, forward, backward):
    """max(F+B, (P(F+B) + 2(P-1)c)/N), N = P or 2P-1 in flight at the first stage; exact over whole rounds."""
    timeline = run(name, ranks, 12 * ranks, 2 * forward, backward, backward, hop)
    flying = in_flight * (ranks - 1) + 1
    assert period(timeline) == steady_period(ranks, flying, 2 * (forward + backward), hop)


@pytest.mark.parametrize(
    ("name", "ranks", "hop", "expected"),
    [
        ("pipedream", 4, 1.0, 4.5),
        ("pipedream", 8, 1.0, 4.75),
        ("layerpipe2", 4, 1.5, 3.0),
        ("layerpipe2", 4, 2.0, 24 / 7),
        ("layerpipe2", 4, 3.0, 30 / 7),
    ],
)
def test_periods_worked_out_by_hand(name, ranks, hop, expected):
    """F = 1, B = 2: PipeDream pays for every hop, LayerPipe2 from more than (F+B)/2 on."""
    config = {
        "pipeline": {"ranks": ranks, "microbatches": 20 * ranks},
        "costs": {"p2p": hop},
        "schedule": name,
    }
    steady = pipesim.simulate(config).metrics["asynchronous"]["steady"]
    assert steady["period_s"] == pytest.approx(expected, rel=1e-12)  # one division of floats


@pytest.mark.parametrize(("input_grad", "weight_grad"), [(1, 1), (3, 1), (1, 3)])
def test_two_engines_shorten_the_clock(input_grad, weight_grad):
    """The two gradients run at once: F + max(I, W) per micro-batch, the delay is the same."""
    timeline = run("layerpipe2", 4, 60, 2, input_grad, weight_grad, engines=2)
    assert period(timeline) == 2 + max(input_grad, weight_grad)
    assert [int(v.staleness.max()) for v in versions(timeline, create("layerpipe2").weight_policy)] == [6, 4, 2, 0]
    assert period(run("layerpipe2", 4, 60, 2, input_grad, weight_grad)) == 2 + input_grad + weight_grad


def test_two_engines_never_touch_weights_in_use():
    """Both gradients start together; the update waits for both; the next forward waits for the update."""
    timeline = run("layerpipe2", 3, 12, 2, 3, 1, engines=2)
    graph = timeline.graph
    at = {(str(graph.op(n))): n for n in range(len(graph))}
    for stage in range(3):
        for microbatch in range(12):
            inputs, weights, update = (at[f"{stage}{kind}{microbatch}"] for kind in ("I", "W", "OPT"))
            assert timeline.start[weights] >= timeline.start[inputs]
            assert timeline.start[update] >= max(timeline.end[weights], timeline.end[inputs])
            later = microbatch + 2 * (2 - stage) + 1
            if later < 12:
                assert timeline.start[at[f"{stage}F{later}"]] >= timeline.end[update]


def test_layers_of_a_group_share_its_delay():
    """Three layers per rank: the delay counts ranks behind, not layers; time and memory are the group's."""
    plain, layered = (
        pipesim.simulate(
            {
                "pipeline": {"ranks": 4, "microbatches": 60},
                "costs": {"forward": 3, "input_grad": 3, "weight_grad": 3, "p2p": 2},
                "memory": {"weights": 6},
                "schedule": {"name": "layerpipe2", "layers": layers},
            }
        ).metrics
        for layers in (1, 3)
    )
    late = [stage["staleness"] for stage in layered["asynchronous"]["stages"]]
    assert late == [6] * 3 + [4] * 3 + [2] * 3 + [0] * 3
    assert plain["asynchronous"]["steady"]["period_s"] == layered["asynchronous"]["steady"]["period_s"] == 9.0
    for one, other in zip(plain["ranks"], layered["ranks"], strict=True):
        assert one["peak_in_flight"] == other["peak_in_flight"]
        assert one["memory"]["weights_bytes"] == other["memory"]["weights_bytes"]


@pytest.mark.parametrize(("name", "options"), [*SCHEMES, ("layerpipe2", {"layers": 2}), ("layerpipe2", {"engines": 2})])
def test_awkward_sizes(name, options):
    """Any P and M run; 2BW names numbers of micro-batches that it can run, and it can."""
    for ranks in range(1, 7):
        for microbatches in range(1, 10):
            try:
                made = program(name, ranks, microbatches, **options)
            except ScheduleError as error:
                assert name == "pipedream-2bw"
                for number in re.findall(r"\d+", str(error).partition("use ")[2]):
                    verify(program(name, ranks, int(number), **options))
                continue
            verify(made)
            check_progress(connect(made))
            run(name, ranks, microbatches, 2, 1, 3, 1, **options)


@pytest.mark.parametrize("name", ["pipedream", "pipedream-2bw", "layerpipe2"])
def test_blocking_transfers_do_not_deadlock(name):
    """Sends and receives on the compute streams find each other, and cost at least what free ones do."""
    made = program(name, 4, 12)
    priced = costs(made, 2, 2, 2, hop=1)
    slow = event.run(bind(lower(made, priced, Lowering(p2p="blocking")), priced))
    assert slow.makespan >= replay(made, 2, 2, 2, hop=1).makespan


def test_groups_below_the_number_of_ranks_are_refused():
    """Two versions last only if a group fills the pipeline."""
    with pytest.raises(ScheduleError, match="group must be at least the number of ranks, 4; found 3"):
        create("pipedream-2bw", group=3).check(4, 12)
    with pytest.raises(ScheduleError, match="layers must be at least 1"):
        create("layerpipe2", layers=0).check(4, 12)
