"""ZB-V: the released orders, Table 8, and the memory limit."""

from __future__ import annotations

import re

import numpy as np
import pytest
import v_orders
from hypothesis import given, settings
from hypothesis import strategies as st
from replay import peak_in_flight, replay, spans

import pipesim
from pipesim.errors import ScheduleError
from pipesim.ir.verify import verify
from pipesim.schedules import Setting, StepCosts, create, v_journey
from pipesim.schedules.v_list import Costs, measure
from pipesim.schedules.zero_bubble_v_auto import Problem, automatic_order

HANDMADE = v_orders.golden("handzbv_*.json")
AUTOMATIC = v_orders.golden("*_zbv.json")
TORCH = sorted((v_orders.DATA.parent / "torch").glob("ZBVZeroBubble_*.csv"))


def size(order):
    return f"{order['id']}"


@pytest.mark.parametrize("order", HANDMADE, ids=size)
def test_handmade_order_is_the_released_one(order):
    """Token for token."""
    program = create("zb-v", order="handmade").program(Setting(order["p"], order["m"]))
    assert [program.tokens(rank) for rank in range(order["p"])] == v_orders.tokens(order)


@pytest.mark.parametrize("file", TORCH, ids=lambda f: f.stem)
def test_handmade_order_is_pytorchs(file):
    """ScheduleZBVZeroBubble emits the same order."""
    p, m = (int(n) for n in re.search(r"_p(\d+)_m(\d+)", file.stem).groups())
    program = create("zb-v", order="handmade").program(Setting(p, m))
    assert program.to_csv() == file.read_text()


@pytest.mark.parametrize("order", AUTOMATIC, ids=size)
def test_automatic_order_is_the_released_one(order):
    """Token for token, at unit costs, other costs, and profiled ones with bytes for memory."""
    program = create("zb-v").program(v_orders.of_file(order))
    assert [program.tokens(rank) for rank in range(order["p"])] == v_orders.tokens(order)


def test_all_golden_files_are_there():
    """The parametrisations are not empty."""
    assert (len(HANDMADE), len(TORCH), len(AUTOMATIC)) == (4, 5, 6)


@pytest.mark.parametrize("row", v_orders.rows("oracle_arxiv_settings.csv"), ids=lambda r: r["id"])
def test_bubble_rates_of_table_8(row):
    """Longest span, as printed to four digits; makespan as the released order replays."""
    p, m = int(row["p"]), int(row["m"])
    f, i, w, hop = (int(float(row[x])) for x in ("T_F", "T_B", "T_W", "T_comm"))
    share = -float(row["dM_W"]) / float(row["dM_F"])
    case = v_orders.setting(p, m, f, i, w, hop, share)
    memory = v_journey.memory(case.costs, p)
    duration = v_journey.durations(case.costs, p)
    order = automatic_order(Problem(m, duration, hop, memory, np.full(p, 2.0 * p)))
    makespan, span = measure(Costs(duration, hop), m, order)
    printed = [
        float(r["bubble_rate"])
        for r in v_orders.rows("zb_table8_zbv_bubble_rates.csv")
        if r["method"] == "ZB-V" and (int(r["p"]), int(r["m"])) == (p, m)
    ]
    assert 1 - 2 * m * (f + i + w) / span == pytest.approx(printed[0], abs=5e-5)
    assert makespan == float(row["makespan_from_t0"])


def test_table_8_has_all_settings():
    """Three models, three numbers of micro-batches."""
    assert len(v_orders.rows("oracle_arxiv_settings.csv")) == 9


@pytest.mark.parametrize("row", v_orders.rows("oracle_nonunit.csv", "_zbv"), ids=lambda r: r["id"])
def test_times_at_other_costs(row):
    """Makespan and span as the released scheduler's, M_w half of M_a."""
    p, m = int(row["p"]), int(row["m"])
    times = v_orders.doubled(row)
    timeline = replay(create("zb-v").program(v_orders.setting(p, m, *times, weight_share=0.5)), *times)
    assert timeline.makespan == 2 * float(row["makespan_from_t0"])
    assert max(spans(timeline)) == 2 * float(row["cost_max_stage_span"])


@pytest.mark.parametrize("p", [1, 2, 4, 8, 16])
def test_unit_costs_leave_no_bubble_within_a_span(p):
    """Span 6 M, makespan 6 M + P-1, and exactly P micro-batches' shares in flight on every rank."""
    program = create("zb-v").program(Setting(p, 2 * p))
    timeline = replay(program)
    assert (max(spans(timeline)), timeline.makespan) == (12 * p, 13 * p - 1)
    assert peak_in_flight(program) == [2 * p] * p


def held(program, costs):
    """Largest sum of activation bytes per rank, by the order of its ops."""
    table = v_journey.memory(costs, program.ranks)
    near = program.stage < program.ranks
    leg = np.select(
        [near & (program.kind == 0), program.kind == 0, near & (program.kind == 1), program.kind == 1], [0, 1, 3, 2], 0
    )
    leg = np.where(program.kind == 2, np.where(near, 5, 4), leg)
    change = table[leg, program.rank]
    bounds = zip(program.starts, program.starts[1:], strict=False)
    return np.array([np.cumsum(change[a:b]).max() for a, b in bounds])


@pytest.mark.parametrize("limit", [1.0, 1.25, 2.0])
@pytest.mark.parametrize(("p", "m"), [(2, 5), (3, 7), (4, 12), (6, 5)])
def test_memory_stays_within_the_limit(p, m, limit):
    """In bytes, with uneven stages, and never slower with more of it."""
    rng = np.random.default_rng(p * m)
    times = [rng.integers(8, 12, 2 * p) for _ in range(3)]
    costs = StepCosts(*times, 1, np.ones(2 * p), rng.uniform(0.3, 0.9, 2 * p))
    program = create("zb-v", memory_limit=limit).program(Setting(p, m, costs))
    verify(program)
    assert (held(program, costs) <= limit * 2 * p + 1e-6).all()


def test_more_memory_shortens_the_span():
    """With slow transfers, forwards ahead hide them."""
    case = v_orders.setting(4, 16, 10, 10, 10, 8)
    cost = [max(spans(replay(create("zb-v", memory_limit=x).program(case), 10, 10, 10, 8))) for x in (1.0, 1.5, 2.0)]
    assert cost[0] > cost[1] >= cost[2]


@pytest.mark.parametrize(("p", "m"), [(4, 8), (3, 3), (5, 2)])
def test_too_little_memory_names_what_would_do(p, m):
    """The limit in the message is accepted, and gives a program."""
    with pytest.raises(ScheduleError, match="memory_limit must be at least") as error:
        create("zb-v", memory_limit=0.2).program(Setting(p, m))
    least = float(re.search(r"at least ([\d.]+)", str(error.value))[1])
    verify(create("zb-v", memory_limit=least).program(Setting(p, m)))


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("name", ["gpt3_175b_a100.yaml", "llama3_405b_h100.yaml"])
def test_models_with_embedding_and_head_run(name, recompute):
    """First and last stage are longer and larger; never more than P micro-batches' shares in flight."""
    config = v_orders.DATA.parents[2] / "configs" / name
    changes = ["schedule=zb-v", f"training.recompute={recompute}", "training.partition=null"]
    result = pipesim.simulate(pipesim.load(config, changes), engine="compiled")
    ranks = result.metrics["config"]["parallelism"]["pipeline"]
    assert max(rank["peak_in_flight"] for rank in result.metrics["ranks"]) == ranks
    plain = pipesim.simulate(pipesim.load(config, ["schedule=1f1b", *changes[1:]]), engine="compiled")
    assert result.metrics["bubble_fraction"] < plain.metrics["bubble_fraction"]


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 6), st.integers(1, 12))
def test_any_costs_have_an_order(data, p, m):
    """Every stage with times and sizes of its own; the limit is kept in bytes, or else if all sizes were their mean."""
    times = [data.draw(st.lists(st.integers(0, 9), min_size=2 * p, max_size=2 * p)) for _ in range(3)]
    sizes = [data.draw(st.lists(st.floats(0, 4), min_size=2 * p, max_size=2 * p)) for _ in range(2)]
    costs = StepCosts(*map(np.array, times), data.draw(st.integers(0, 9)), *map(np.array, sizes))
    program = create("zb-v").program(Setting(p, m, costs))
    verify(program)
    assert within_the_memory_of_1f1b(program, costs) or within_the_memory_of_1f1b(program, costs.averaged())


def within_the_memory_of_1f1b(program, costs):
    """P shares of a micro-batch on every rank, within what sums of floats are off."""
    ranks = program.placement.ranks
    share = costs.activations[:ranks] + costs.activations[::-1][:ranks]
    return bool((held(program, costs) <= ranks * share * (1 + 1e-6)).all())


def test_sizes_that_differ_too_much_count_as_their_mean():
    """Activations of the near stage alone, no weight gradient keeps any: two micro-batches at once instead of one."""
    nothing, sizes = np.zeros(2, np.int64), np.array([1.0, 0.0])
    costs = StepCosts(nothing, nothing, np.array([0, 2]), 0, sizes, np.zeros(2))
    program = create("zb-v").program(Setting(1, 2, costs))
    assert held(program, costs).tolist() == [2.0]
    assert held(program, costs.averaged()).tolist() == [1.0]
