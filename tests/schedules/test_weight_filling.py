"""The search behind automatic zero-bubble, against every order there is, and its lower bound against known ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from replay import replay, spans

from pipesim.ir.op import Kind
from pipesim.ir.program import Program
from pipesim.schedules import Setting, StepCosts, create
from pipesim.schedules.weight_filling.bound import Line, lower_bound
from pipesim.schedules.weight_filling.fill import RANK, build
from pipesim.schedules.weight_filling.polish import polish
from pipesim.schedules.weight_filling.search import find_order

F, I, W = Kind.F, Kind.I, Kind.W  # noqa: E741
SIZES = [(1, 3), (2, 1), (2, 2), (2, 3), (3, 2)]


def line(m, times, hop, whole, part, capacity):
    """Arrays from lists, one entry per rank."""
    forward, input_grad, weight_grad = (np.array(t, np.int64) for t in times)
    first = np.concatenate([[0], np.cumsum(forward[:-1] + hop)])
    memory = [np.array(x, float) for x in (whole, part, capacity)]
    return Line(forward, input_grad, weight_grad, hop, first, *memory, m)


def equal_stages(p, m, times, hop=0, limit=1.0, part=0.5):
    ones = np.ones(p)
    return line(m, [[t] * p for t in times], hop, ones, part * ones, limit * p * ones)


def orders(m, whole, part, capacity):
    """Every order of one rank's ops that respects memory, micro-batches ascending within each kind."""

    def extend(row, forwards, inputs, weights):
        if (forwards - inputs) * whole + (inputs - weights) * part > capacity:
            return
        if weights == m:
            yield row
        for kind, allowed in ((F, forwards < m), (I, inputs < forwards), (W, weights < inputs)):
            if allowed:
                counts = (forwards + (kind == F), inputs + (kind == I), weights + (kind == W))
                yield from extend((*row, kind), *counts)

    return list(extend((), 0, 0, 0))


def ends(problem, rows):
    """When each rank ends; None if the ranks wait for each other."""
    times = [problem.forward.tolist(), problem.input_grad.tolist(), problem.weight_grad.tolist()]
    clock, position = [0] * len(rows), [0] * len(rows)
    done = [[[] for _ in rows] for _ in range(2)]
    moved = True
    while moved:
        moved = False
        for r, row in enumerate(rows):
            while position[r] < len(row):
                kind = row[position[r]]
                neighbour = {F: r - 1, I: r + 1, W: -1}[kind]
                if 0 <= neighbour < len(rows):
                    arrived = done[kind][neighbour]
                    if len(arrived) <= len(done[kind][r]):
                        break
                    clock[r] = max(clock[r], arrived[len(done[kind][r])] + problem.hop)
                clock[r] += times[kind][r]
                if kind != W:
                    done[kind][r].append(clock[r])
                position[r] += 1
                moved = True
    return clock if all(n == len(row) for n, row in zip(position, rows, strict=True)) else None


def optimum(problem, origin):
    """The least cost over all combinations of all ranks' orders."""
    memory = zip(problem.whole, problem.part, problem.capacity, strict=True)
    choices = [orders(problem.microbatches, *rank) for rank in memory]
    found = (ends(problem, rows) for rows in itertools.product(*choices))
    return min(max(np.array(clock) - origin) for clock in found if clock is not None)


def random_problem(seed):
    random = np.random.default_rng(seed)
    p, m = SIZES[random.integers(len(SIZES))]
    whole = random.uniform(1, 2, p)
    part = whole * random.uniform(0, 1, p)
    limit = max(1.0, p * random.choice([0.4, 0.7, 1.0, 1.5, 2.0]))
    return line(m, random.integers(0, 9, (3, p)), int(random.integers(0, 4)), whole, part, limit * whole)


@pytest.mark.parametrize("objective", ["span", "makespan"])
@pytest.mark.parametrize("seed", range(60))
def test_tiny_problems_are_solved_to_the_optimum(seed, objective):
    """No order of any kind is better, stages, memory and hop being random; and the bound is below all of them."""
    problem = random_problem(seed)
    span, makespan = problem.first, np.zeros_like(problem.first)
    origin, second = (span, makespan) if objective == "span" else (makespan, span)
    best = optimum(problem, origin)
    kinds = find_order(problem, origin, second)
    assert max(np.array(ends(problem, kinds.tolist())) - origin) == best
    assert lower_bound(problem, origin) <= best


@pytest.mark.parametrize("times", [(1, 1, 1), (20, 24, 12), (30, 40, 20), (18522, 18086, 9337)], ids=str)
@pytest.mark.parametrize(("p", "m"), [(1, 4), (4, 8), (4, 12), (8, 24), (16, 64)])
def test_zb_h1_is_optimal_in_its_memory(p, m, times):
    """The bound at limit 1, with half the activations kept until W, is the bubble of ZB-H1."""
    problem = equal_stages(p, m, times)
    f, i, w = times
    bubble = (p - 1) * (f + i - w)
    assert lower_bound(problem, problem.first) == lower_bound(problem, 0 * problem.first) == m * (f + i + w) + bubble


@pytest.mark.parametrize("p", [1, 2, 4, 8])
def test_unit_costs_need_2p_minus_1_activations_for_no_bubble(p):
    """With one less, and W keeping them all, the bound on the span rises above the work."""
    m, unit = 4 * p, (1, 1, 1)
    for activations, bubble in ((2 * p, 0), (2 * p - 1, 0), (2 * p - 2, 1)):
        if activations:
            problem = equal_stages(p, m, unit, limit=activations / p, part=1.0)
            assert lower_bound(problem, problem.first) == 3 * m + bubble


def test_one_activation_means_one_micro_batch_at_a_time():
    """Every forward then waits for the whole round trip and the W before it."""
    problem = equal_stages(4, 5, (2, 3, 1), hop=1, limit=0.25)
    round_trip = 4 * 5 + 2 * 3
    assert lower_bound(problem, problem.first) == 5 * (round_trip + 1)


@pytest.mark.parametrize("yielding", [True, False])
@pytest.mark.parametrize("patience", [0.0, 0.5, 1.01])
def test_what_is_built_is_its_own_replay(patience, yielding):
    """The clocks that the construction decides by are those of the engine, for unequal stages."""
    random = np.random.default_rng(3)
    times, hop, p, m = random.integers(5, 30, (3, 5)), 2, 5, 9
    problem = line(m, times, hop, np.ones(p), np.ones(p) / 2, 6.5 * np.ones(p))
    ranks = records(problem)
    ranks["warmup"], ranks["idle"] = [5, 4, 3, 2, 1], 30
    kinds, end = np.zeros(3 * p * m, np.int8), np.zeros((2, p, m), np.int64)
    latest = np.full((p, m), 300)
    assert build(ranks, kinds, end, latest, hop, patience, yielding)
    timeline = replay(program(kinds.reshape(p, -1)), *times, hop)
    last = timeline.graph.starts[1 : p + 1] - 1
    assert ranks["clock"].tolist() == timeline.end[last].tolist()
    assert ranks["waited"].tolist() == [s - t for s, t in zip(spans(timeline), problem.work, strict=True)]


def test_building_stops_when_a_rank_waits_too_long():
    """A plan that cannot be better than what is known is given up."""
    problem = equal_stages(4, 8, (3, 4, 2))
    ranks = records(problem)
    ranks["warmup"] = [4, 3, 2, 1]
    arrays = np.zeros(96, np.int8), np.zeros((2, 4, 8), np.int64), np.full((4, 8), 10**6)
    assert build(ranks, *arrays, 0, 0.5, True)
    ranks["most_idle"] = most = ranks["waited"].max()
    assert build(ranks, *arrays, 0, 0.5, True)
    ranks["most_idle"] = most - 1
    assert not build(ranks, *arrays, 0, 0.5, True)


def test_polishing_finds_late_weight_gradients():
    """Starting from 1F1B with every W right after its I, moves alone lead to the bubble of ZB-H1."""
    p, m, times = 3, 6, (3, 4, 2)
    problem = equal_stages(p, m, times)
    split = [[F] * (p - 1 - r) + [F, I, W] * (m - p + 1 + r) + [I, W] * (p - 1 - r) for r in range(p)]
    start = np.array(split, np.int8)
    goal = problem.first + lower_bound(problem, problem.first)
    better = polish(records(problem), start, goal, 0, 1, 20_000)
    before, after = (max(ends(problem, rows.tolist()) - problem.first) for rows in (start, better))
    assert before == m * 9 + (p - 1) * (3 + 4)
    assert after == m * 9 + (p - 1) * (3 + 4 - 2)
    assert all(row in orders(m, 1.0, 0.5, p) for row in map(tuple, better.tolist()))


def records(problem):
    """What the compiled parts work on."""
    ranks = np.zeros(problem.ranks, RANK)
    for name in ("forward", "input_grad", "weight_grad", "first", "whole", "part", "capacity"):
        ranks[name] = getattr(problem, name)
    ranks["promised"], ranks["most_idle"] = 1, 10**15
    return ranks


def program(kinds):
    """The program of kinds per rank."""
    p, m = len(kinds), kinds.shape[1] // 3
    numbered = [[(r, k, int(np.sum(row[:n] == k))) for n, k in enumerate(row)] for r, row in enumerate(kinds)]
    made = Program.from_orders(create("zb-auto").placement(p), numbered)
    assert made.microbatches == m
    return made


def test_the_setting_reaches_the_search():
    """A stage's own costs, hop and memory become the line's, with the limit in units of its activations."""
    costs = StepCosts(*np.arange(1, 7).reshape(3, 2), 5, np.array([4.0, 2.0]), np.array([1.0, 3.0]))
    bound = create("zb-auto", memory_limit=0.5).lower_bound(Setting(2, 3, costs))
    expected = line(3, [[1, 2], [3, 4], [5, 6]], 5, [4, 2], [1, 2], [4, 2])
    assert bound == lower_bound(expected, expected.first)
