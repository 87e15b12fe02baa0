"""HelixPipe: its order, its bubbles and its answer to slow hops, against the released code's order."""

from __future__ import annotations

import re

import numpy as np
import pytest
from replay import costs, idle, replay

from pipesim.engine import compiled
from pipesim.errors import ScheduleError
from pipesim.ir.connect import connect
from pipesim.ir.op import Kind
from pipesim.ir.verify import verify
from pipesim.lowering.bind import bind
from pipesim.schedules import Setting, create
from pipesim.schedules.base import StepCosts

# (P, loops, folds, repeats), part times (pre, attention, post) forward; makespan with backwards of twice the
# forward and free messages, and busy time. From replaying attn_pipe_schedule.py's order by itself.
REFERENCE = [
    ((2, 2, 1, 1), (1, 3, 2), 81, 72),
    ((4, 2, 1, 1), (1, 3, 2), 171, 144),
    ((4, 2, 2, 1), (0, 6, 3), 477, 432),
    ((8, 4, 2, 1), (0, 6, 3), 1845, 1728),
    ((4, 4, 2, 2), (0, 6, 3), 1773, 1728),
]
SIZES = [(p, v, f, r) for p in range(2, 9) for v in (1, 2, 3, 4) for f in (1, 2, 4) for r in (1, 2, 3)]


def helix(p, v, folds, repeats):
    """The program for v layers per rank and so many repeats."""
    return create("helix", folds=folds, layers=p * v).program(Setting(p, p * folds * repeats))


def stage_times(layers, parts):
    """Time per stage from (pre, attention, post)."""
    pre, attention, post = parts
    return np.array([pre, *[attention, post + pre] * (layers - 1), attention, post])


def run(size, parts, backward_parts=None, hop=0):
    """The replay of a size with part times forward and backward (default: twice the forward)."""
    layers = size[0] * size[1]
    forward = stage_times(layers, parts)
    backward = 2 * forward if backward_parts is None else stage_times(layers, backward_parts)
    return replay(helix(*size), forward, backward, 0 * backward, hop)


def test_order_of_two_ranks_and_four_layers():
    """The published example, with weights between attentions at even stages and attention at odd ones."""
    program = helix(2, 2, 1, 1)
    first = ["0F0", "0F1", "1F1", "3F0", "4F0", "4F1", "5F1", "7F0", "8F0", "8F1"]
    second = ["1F0", "2F0", "2F1", "3F1", "5F0", "6F0", "6F1", "7F1"]
    for rank, forwards in enumerate((first, second)):
        assert program.tokens(rank) == forwards + [token.replace("F", "B") for token in reversed(forwards)]


@pytest.mark.parametrize("size", [(4, 3, 2, 3), (3, 1, 4, 2)])
def test_backward_is_the_exact_reverse(size):
    """Every rank undoes its forwards in the opposite order."""
    program = helix(*size)
    for start, end in zip(program.starts, program.starts[1:], strict=False):
        half = (end - start) // 2
        forward, backward = slice(start, start + half), slice(start + half, end)
        assert set(program.kind[forward]) == {Kind.F}
        assert set(program.kind[backward]) == {Kind.B}
        for column in (program.stage, program.microbatch):
            assert (column[forward] == column[backward][::-1]).all()


def test_placement_winds_round_the_ranks():
    """Weights before layer l are on rank l mod P for all; attention is d + 1 ranks on, and holds no weights."""
    placement = create("helix", layers=8).placement(4)
    for layer in range(8):
        assert (placement.rank_of[:, 2 * layer] == layer % 4).all()
        assert placement.rank_of[:, 2 * layer + 1].tolist() == [(layer + d + 1) % 4 for d in range(4)]
    assert (placement.rank_of[:, 16] == 0).all()
    assert placement.holds.sum(axis=0).tolist() == [1, 0] * 8 + [1]


def test_routes_are_offsets():
    """Micro-batch (repeat x P + offset) x folds + fold takes the route of its offset."""
    program = helix(3, 1, 2, 2)
    assert program.route_of.tolist() == [0, 0, 1, 1, 2, 2] * 2


@pytest.mark.parametrize(("size", "parts", "makespan", "busy"), REFERENCE)
def test_reference_makespans(size, parts, makespan, busy):
    """Exact makespans of five sizes; every rank is busy equally long."""
    timeline = run(size, parts)
    assert timeline.makespan == makespan
    assert idle(timeline) == [makespan - busy] * size[0]


@pytest.mark.parametrize("p", [2, 3, 4, 8])
@pytest.mark.parametrize(("v", "repeats"), [(1, 1), (3, 1), (2, 3)])
@pytest.mark.parametrize("parts", [(1, 3, 2), (2, 0, 1), (0, 50, 7)])
def test_bubble_of_one_fold(p, v, repeats, parts):
    """(P-1)(t_pre + t_post) per direction, whatever attention takes, however many layers and repeats."""
    pre, _, post = parts
    assert idle(run((p, v, 1, repeats), parts)) == [3 * (p - 1) * (pre + post)] * p


@pytest.mark.parametrize("p", [2, 3, 5, 8])
@pytest.mark.parametrize(("v", "repeats"), [(1, 1), (2, 2)])
@pytest.mark.parametrize("parts", [(0, 6, 3), (0, 3, 3), (1, 0, 2)])
def test_bubble_of_two_folds(p, v, repeats, parts):
    """(2P-3)(t_pre + t_post) per direction, with pre free and attention no shorter than post. With attention free
    it is the same at 1 : 2, but not in general.
    """
    pre, _, post = parts
    assert idle(run((p, v, 2, repeats), parts)) == [3 * (2 * p - 3) * (pre + post)] * p


def test_bubble_of_two_folds_without_attention_depends_on_the_parts():
    """At pre : post = 1 : 3 a rank waits 21 per direction, not (2P-3)(t_pre + t_post) = 20: no theory there."""
    assert idle(run((4, 2, 2, 1), (1, 0, 3))) == [3 * 21] * 4


@pytest.mark.parametrize("p", [3, 4, 8])
def test_bubble_of_two_folds_with_pre_lies_between(p):
    """Between (2P-4) and (2P-3) times (t_pre + t_post) per direction when attention is the longest part."""
    for waiting in idle(run((p, 2, 2, 1), (1, 5, 2))):
        assert 3 * (2 * p - 4) * 3 <= waiting <= 3 * (2 * p - 3) * 3


@pytest.mark.parametrize(("p", "bubble"), [(4, 19), (8, 66)])
def test_bubble_of_four_folds(p, bubble):
    """Not in the paper, but orderly: 19 and 66 per direction for pre 1, post 2 and long attention."""
    assert idle(run((p, 2, 4, 1), (1, 40, 2))) == [3 * bubble] * p


@pytest.mark.parametrize(
    ("hop", "one_fold", "two_folds"), [(0, 3.8, 6.3), (1, 16.9, 6.7), (2, 30, 7.1), (3, 43, 7.5), (6, 83, 13.8)]
)
def test_two_folds_hide_hops(hop, one_fold, two_folds):
    """Overhead over busy time in percent, to the printed digits, at P = 4, 16 layers, 8 micro-batches."""
    for folds, repeats, printed in ((1, 2, one_fold), (2, 1, two_folds)):
        timeline = run((4, 4, folds, repeats), (0, 6, 3), (0, 12, 9), hop)
        waiting = idle(timeline)[0]
        digits = 0 if isinstance(printed, int) else 1
        # Half a unit of the last digit; a hair more because 6.25 and 13.75 are printed rounded up.
        assert 100 * waiting / (timeline.makespan - waiting) == pytest.approx(printed, abs=0.5001 * 10**-digits)


def test_all_sizes_verify_and_run():
    """No size deadlocks, each op is there once, and the compiled engine agrees with the event engine."""
    for size in SIZES:
        program = helix(*size)
        verify(program)
        graph = bind(connect(program), costs(program, 2, 3, 1, hop=1))
        assert (compiled.run(graph).end >= 0).all()
    assert len(SIZES) == 252


@pytest.mark.parametrize("size", [(4, 2, 2, 2), (5, 1, 1, 2), (2, 3, 4, 1)])
def test_engines_agree(size):
    """The same integers from both engines, with hops."""
    program = helix(*size)
    forward = stage_times(size[0] * size[1], (1, 6, 3))
    graph = bind(connect(program), costs(program, forward, 2 * forward, forward, hop=2))
    assert (compiled.run(graph).end == replay(program, forward, 2 * forward, forward, hop=2).end).all()


@pytest.mark.parametrize("size", [(4, 2, 2, 1), (3, 2, 1, 2)])
def test_every_layer_sends_two_messages_but_for_local_edges(size):
    """Per direction and kind of edge, all micro-batches but the 1/P that stay on their rank."""
    p, v, _, _ = size
    program = helix(*size)
    m, layers = program.microbatches, p * v
    sent = np.bincount(connect(program).dep_message[connect(program).dep_message >= 0], minlength=2 * layers)
    assert sent.tolist() == [2 * (m - m // p)] * (2 * layers)


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
@pytest.mark.parametrize(("folds", "parts"), [(1, (1, 3, 2)), (1, (0, 6, 3)), (2, (0, 6, 3))])
@pytest.mark.parametrize("repeats", [1, 3])
def test_theory_equals_the_replay(ranks, folds, parts, repeats):
    """The stated bubble fraction is the replayed one."""
    forward = stage_times(2 * ranks, parts)
    one = np.ones(len(forward))
    given = StepCosts(forward, forward, forward, 0, one, one)
    theory = create("helix", folds=folds, layers=2 * ranks).theory(Setting(ranks, ranks * folds * repeats, given))
    timeline = run((ranks, 2, folds, repeats), parts)
    # Float division of two exact integers.
    assert theory.bubble_fraction == pytest.approx(idle(timeline)[0] / timeline.makespan, rel=1e-12)
    assert theory.peak_in_flight == [ranks * folds * repeats] * ranks


@pytest.mark.parametrize(("folds", "parts"), [(2, (1, 6, 3)), (2, (1, 0, 3)), (2, (0, 1, 3)), (4, (0, 6, 3))])
def test_no_bubble_formula_outside_its_domain(folds, parts):
    """Two folds with a part in front of attention, or short attention, or four folds: no closed form is known."""
    forward = stage_times(4, parts)
    given = StepCosts(forward, forward, forward, 0, np.ones(9), np.ones(9))
    assert create("helix", folds=folds, layers=4).theory(Setting(4, 16, given)).bubble_fraction is None


@pytest.mark.parametrize(
    ("options", "ranks", "microbatches"),
    [({}, 4, 6), ({}, 4, 4), ({"folds": 1}, 4, 3), ({"folds": 4}, 3, 40), ({"layers": 6}, 4, 8), ({"layers": 3}, 4, 8)],
)
def test_refusals_name_numbers_that_work(options, ranks, microbatches):
    """What a message proposes is accepted."""
    with pytest.raises(ScheduleError) as refused:
        create("helix", **options).check(ranks, microbatches)
    proposed = [int(n) for n in re.findall(r"\d+", re.search(r"use ([\d or]+)", str(refused.value))[1])]
    assert proposed
    for number in proposed:
        if "layers are" in str(refused.value):
            create("helix", **{**options, "layers": number}).check(ranks, microbatches)
        else:
            create("helix", **options).check(ranks, number)


@pytest.mark.parametrize(
    ("options", "ranks"), [({}, 1), ({"folds": 0}, 2), ({"mlp_chunks": 0}, 2), ({"attention_share": 1.5}, 2)]
)
def test_unusable_options_are_refused(options, ranks):
    """One rank, no fold, no chunk, more attention than there is time."""
    with pytest.raises(ScheduleError):
        create("helix", **options).check(ranks, 8)


def test_fit_refuses_another_number_of_layers():
    """A number of layers that contradicts the model is an error; the model's own is taken."""
    assert create("helix").fit(32).stages(8) == 65
    with pytest.raises(ScheduleError, match="the model has 32"):
        create("helix", layers=16).fit(32)
