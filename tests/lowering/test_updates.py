"""Optimizer steps inside a program: accepted when they apply every gradient, reduced before, moved together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from replay import UNIT, costs

import pipesim
from pipesim.engine import event
from pipesim.errors import ConfigError, ProgramError
from pipesim.ir.graph import COLLECTIVE, UPDATE
from pipesim.ir.op import Kind
from pipesim.ir.placement import linear
from pipesim.ir.program import Program
from pipesim.ir.updates import WeightPolicy, stale_stages
from pipesim.ir.verify import verify
from pipesim.lowering.bind import bind
from pipesim.lowering.lower import Lowering, lower
from pipesim.schedules import Setting, create

TWO = ["0F0", "0F1", "0B0", "0OPT0", "0B1", "0OPT1"]


def one_rank(tokens):
    return Program.from_orders(linear(1), [tokens])


def lowered(name, ranks, microbatches, lowering=None, buckets=1, **times):
    program = create(name).program(Setting(ranks, microbatches))
    base = costs(program, 4, 4, 4)
    extra = {key: np.full(ranks, value * UNIT) for key, value in times.items()}
    priced = replace(base, times=replace(base.times, **extra), gradient_buckets=np.full(ranks, buckets))
    return bind(lower(program, priced, lowering or Lowering()), priced)


@pytest.mark.parametrize(
    "tokens", [TWO, ["0F0", "0F1", "0B0", "0B1", "0OPT1"], ["0F0", "0I0", "0W0", "0OPT0"]], ids=str
)
def test_updates_that_apply_every_gradient_are_accepted(tokens):
    """One per micro-batch, one for several, after B or after W."""
    verify(one_rank(tokens))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["0F0", "0F1", "0OPT0", "0B0", "0B1", "0OPT1"], "0OPT0 comes before its gradient\n  rank 0, op 2"),
        (["0F0", "0I0", "0OPT0", "0W0"], "0OPT0 comes before its gradient"),
        (["0F0", "0F1", "0B0", "0OPT0", "0B1"], "no optimizer step applies 0B1: there is no OPT of stage 0 after it"),
        ([*TWO, "0OPT0"], "0OPT0 occurs more than once\n  rank 0, op 6"),
        ([*TWO, "3OPT0"], "3OPT0 is outside the step"),
        ([*TWO, "0REDUCE_GRAD0"], "0REDUCE_GRAD0 is outside the step"),
    ],
)
def test_other_updates_are_refused(tokens, message):
    """The first offending op is shown in its place."""
    with pytest.raises(ProgramError, match=message):
        verify(one_rank(tokens))


def test_pytorch_files_cannot_hold_updates():
    """The format steps once, after the schedule."""
    with pytest.raises(ProgramError, match="cannot be written as PyTorch schedule CSV"):
        create("pipedream").program(Setting(2, 2)).to_csv()


def test_only_stages_whose_weights_change_under_way_are_stale():
    """All but the last with PipeDream; none where a single micro-batch runs."""
    program = create("pipedream").program(Setting(4, 8))
    assert stale_stages(program).tolist() == [True, True, True, False]
    assert not stale_stages(create("pipedream").program(Setting(4, 1))).any()


@pytest.mark.parametrize("second_engine", [False, True])
def test_every_update_waits_for_its_reduction(second_engine):
    """One reduction per bucket and update, after its gradient and before the update."""
    name = "layerpipe2" if second_engine else "pipedream"
    graph = lowered(name, 3, 6, Lowering(second_engine=second_engine), buckets=2, reduce_grad=3, optimizer=1)
    timeline = event.run(graph)
    assert (graph.kind == Kind.REDUCE_GRAD).sum() == 3 * 6 * 2
    assert {s.name for s in graph.streams if s.rank == 1} >= {COLLECTIVE}
    for update in np.flatnonzero(graph.kind == Kind.OPT).tolist():
        waited = graph.dependencies(update)
        reductions = waited[graph.kind[waited] == Kind.REDUCE_GRAD]
        assert len(reductions) == 2
        assert timeline.start[update] >= timeline.end[reductions].max()


def test_2bw_reduces_once_per_group():
    """Gradients of a group are added up first."""
    graph = lowered("pipedream-2bw", 4, 12, reduce_grad=3)
    assert (graph.kind == Kind.REDUCE_GRAD).sum() == 4 * 3


def test_no_optimizer_is_appended_and_nobody_waits_for_all():
    """The program's own steps are all there are."""
    graph = lowered("pipedream", 3, 6, optimizer=2, reduce_grad=1)
    assert (graph.kind == Kind.OPT).sum() == 18
    assert not (graph.kind == Kind.BARRIER).any()


def test_weights_are_reconstructed_where_they_are_stale():
    """Right before the backward, and before its recomputation, on all stages but the last."""
    graph = lowered("layerpipe2", 3, 6, Lowering(weights=WeightPolicy.AVERAGE), reconstruct=1, recompute=2)
    nodes = np.flatnonzero(graph.kind == Kind.RECONSTRUCT)
    assert np.bincount(graph.stage[nodes], minlength=3).tolist() == [6, 6, 0]
    assert (graph.kind[nodes + 1] == Kind.RECOMPUTE).all()
    assert (graph.kind[nodes + 2] == Kind.B).all()
    stashed = lowered("layerpipe2", 3, 6, Lowering(weights=WeightPolicy.STASH), reconstruct=1)
    assert not (stashed.kind == Kind.RECONSTRUCT).any()


def test_a_second_engine_moves_ops_and_keeps_them_all():
    """W and OPT in the same order on a stream of their own; W starts when its I does."""
    program = create("layerpipe2", engines=2).program(Setting(3, 5))
    priced = costs(program, 2, 3, 4)
    graph = bind(lower(program, priced, Lowering(second_engine=True)), priced)
    tokens = [[str(graph.op(n)) for n in range(a, b)] for a, b in zip(graph.starts, graph.starts[1:], strict=False)]
    assert [(s.rank, s.name) for s in graph.streams[3:]] == [(r, UPDATE) for r in range(3)]
    for rank in range(3):
        original = program.tokens(rank)
        assert tokens[rank] == [t for t in original if "F" in t or "I" in t]
        assert tokens[3 + rank] == [t for t in original if "W" in t or "OPT" in t]
    timeline = event.run(graph)
    at = {str(graph.op(n)): n for n in range(len(graph))}
    assert timeline.start[at["2W0"]] == timeline.start[at["2I0"]]


def test_reconstruction_on_two_engines_waits_for_the_update_before_it():
    """It reads the newest weights, so no update of the stage runs at the same time, to the end of the drain."""
    lowering = Lowering(weights=WeightPolicy.AVERAGE, second_engine=True)
    program = create("layerpipe2", engines=2).program(Setting(3, 8))
    base = costs(program, 2, 1, [20, 1, 1])
    priced = replace(base, times=replace(base.times, reconstruct=np.full(3, UNIT), optimizer=np.full(3, 2 * UNIT)))
    timeline = event.run(bind(lower(program, priced, lowering), priced))
    graph = timeline.graph
    for stage in range(2):
        mine = graph.stage == stage
        for node in np.flatnonzero(mine & (graph.kind == Kind.RECONSTRUCT)).tolist():
            for update in np.flatnonzero(mine & (graph.kind == Kind.OPT)).tolist():
                assert timeline.end[update] <= timeline.start[node] or timeline.start[update] >= timeline.end[node]


@pytest.mark.parametrize(
    ("schedule", "override", "path"),
    [
        ("pipedream", "training.zero=1", "training.zero"),
        ({"name": "layerpipe2", "engines": 2}, "simulation.p2p=blocking", "simulation.p2p"),
    ],
)
def test_what_does_not_go_together_is_a_config_error(schedule, override, path):
    """Sharded state would be gathered per micro-batch; a blocking transfer holds one of two engines."""
    config = {
        "model": "gpt2-1.3b",
        "cluster": {"gpu": "a100-sxm-80gb", "nodes": 1},
        "parallelism": {"pipeline": 4, "data": 2},
        "schedule": schedule,
        "training": {"global_batch": 16},
    }
    with pytest.raises(ConfigError) as caught:
        pipesim.load(config, [override])
    assert [problem.path for problem in caught.value.problems] == [path]


def test_a_users_schedule_may_step_the_optimizer():
    """OPT tokens are enough: the run is reported as one without a flush."""
    name = "two-by-two-updates"

    @pipesim.schedule(name)
    def order(rank, ranks, microbatches):
        """One micro-batch at a time, with an update after each."""
        for m in range(microbatches):
            yield from (f"{rank}F{m}", f"{rank}B{m}", f"{rank}OPT{m}")

    metrics = pipesim.simulate({"pipeline": {"ranks": 2, "microbatches": 6}, "schedule": name}).metrics
    assert metrics["bubble_fraction"] is None
    assert [stage["staleness"] for stage in metrics["asynchronous"]["stages"]] == [0, 0]
