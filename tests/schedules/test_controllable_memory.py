"""V-Half, V-Min and the adaptive V family: released orders, published peaks and bubbles, and what search adds."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
import v_orders
from replay import peak_in_flight, replay, spans

from pipesim.errors import ScheduleError
from pipesim.ir.verify import verify
from pipesim.schedules import Setting, create

NAMES = {"vhalf": "v-half", "vmin": "v-min"}
GOLDEN = [(name, order) for name in NAMES for order in v_orders.golden(f"*_{name}.json")]
TIMED = [(name, row) for name in NAMES for row in v_orders.rows("oracle_nonunit.csv", f"_{name}")]
UNIT = [(name, row) for name in NAMES for row in v_orders.rows("oracle_unit.csv", f"_{name}")]


def case(pair):
    return pair[1]["id"]


@pytest.mark.parametrize("pair", GOLDEN, ids=case)
def test_order_is_the_released_one(pair):
    """Token for token, whatever the costs: the pattern is built for unit costs."""
    name, order = pair
    program = create(NAMES[name]).program(v_orders.of_file(order))
    assert [program.tokens(rank) for rank in range(order["p"])] == v_orders.tokens(order)


def test_all_golden_files_are_there():
    """The parametrisations are not empty."""
    assert (len(GOLDEN), len(TIMED), len(UNIT)) == (8, 36, 26)


@pytest.mark.parametrize("pair", [*UNIT, *TIMED], ids=case)
def test_makespan_and_peak_of_the_published_pattern(pair):
    """As the released orders replay, at unit and other costs."""
    name, row = pair
    p, m = int(row["p"]), int(row["m"])
    times = v_orders.doubled(row)
    program = create(NAMES[name]).program(v_orders.setting(p, m, *times))
    assert replay(program, *times).makespan == 2 * float(row["makespan_from_t0"])
    assert peak_in_flight(program) == [int(n) for n in row["inflight_until_W_per_rank"].split()]


@pytest.mark.parametrize("p", [4, 8, 16, 24, 32])
def test_published_peaks(p):
    """Micro-batches in flight as the authors state them."""
    peaks = {name: max(peak_in_flight(create(name).program(Setting(p, 3 * p)))) for name in NAMES.values()}
    assert peaks == {"v-half": 2 * ((p + 2) // 2), "v-min": 2 * ((p + 4) // 3)}


@pytest.mark.parametrize("name", NAMES.values())
@pytest.mark.parametrize("p", range(1, 41))
def test_blocks_do_not_collide(name, p):
    """On no rank do two legs want the same slot modulo six."""
    slots = np.sort(create(name).block(p) % 6, axis=0)
    assert (np.diff(slots, axis=0) > 0).all()


@pytest.mark.parametrize("name", NAMES.values())
def test_retimed_order_keeps_the_peak_and_is_never_slower(name):
    """At costs far from and close to unit, even and odd sizes, few micro-batches."""
    for p, m, times in ((2, 3, (3, 5, 1, 0)), (3, 8, (4, 4, 4, 1)), (4, 12, (10, 11, 9, 1)), (5, 4, (2, 3, 2, 0))):
        case = v_orders.setting(p, m, *times)
        published, retimed = (create(name, retime=x).program(case) for x in (False, True))
        verify(retimed)
        assert max(peak_in_flight(retimed)) <= max(peak_in_flight(published))
        assert replay(retimed, *times).makespan <= replay(published, *times).makespan


def test_retiming_pays_where_passes_take_unequal_times():
    """F : I : W = 20 : 24 : 12 on eight ranks: V-Min loses two fifths of its bubble, V-Half a little."""
    times = (20, 24, 12, 0)
    case = v_orders.setting(8, 24, *times)
    work = 24 * 2 * sum(times)
    bubble = {
        (name, x): replay(create(name, retime=x).program(case), *times).makespan - work
        for name in NAMES.values()
        for x in (False, True)
    }
    assert bubble["v-min", True] <= 0.6 * bubble["v-min", False]
    assert bubble["v-half", True] < bubble["v-half", False]


def test_post_validated_retiming_looks_at_spans():
    """Without a barrier the longest span counts."""
    times = (10, 11, 9, 1)
    case = v_orders.setting(4, 12, *times)
    cost = [
        max(spans(replay(create("v-half", retime=x, optimizer="post-validated").program(case), *times)))
        for x in (False, True)
    ]
    assert cost[1] <= cost[0]


@pytest.mark.parametrize(
    ("p", "limit", "bubble"),
    [
        *((4, k, b) for k, b in {4: 11, 5: 8, 6: 5, 7: 3, 8: 0}.items()),
        *((6, k, b) for k, b in {6: 17, 7: 14, 8: 11, 9: 8, 10: 5, 11: 3, 12: 0}.items()),
        (8, 8, 23),
        (8, 12, 11),
    ],
)
def test_adaptive_bubbles_at_unit_costs(p, limit, bubble):
    """Longest span minus work, in slots: those of the released search; at P = 8, k = 8 four less than V-Min."""
    schedule = create("v-adaptive", memory_limit=limit / (2 * p), optimizer="post-validated")
    program = schedule.program(Setting(p, 2 * p))
    assert max(spans(replay(program))) - 12 * p == bubble
    assert max(peak_in_flight(program)) <= limit


@pytest.mark.parametrize("row", v_orders.rows("oracle_adaptiveV.csv"), ids=lambda r: r["id"])
def test_adaptive_is_as_good_as_the_released_search(row):
    """Makespan, within the same limit."""
    p, m, limit = int(row["p"]), int(row["m"]), int(row["M_limit"])
    program = create("v-adaptive", memory_limit=limit / (2 * p)).program(Setting(p, m))
    assert replay(program).makespan <= float(row["makespan_from_t0"])
    assert max(peak_in_flight(program)) <= limit


@pytest.mark.parametrize("p", [1, 3, 5])
def test_adaptive_keeps_any_limit(p):
    """Down to one micro-batch at a time, with few and many micro-batches, and uneven costs."""
    for limit in range(2, 2 * p + 1):
        for m in (1, p, 2 * p + 1):
            program = create("v-adaptive", memory_limit=limit / (2 * p), effort=0.1).program(
                v_orders.setting(p, m, 3, 5, 2, 1)
            )
            verify(program)
            replay(program)
            assert max(peak_in_flight(program)) <= limit


def test_adaptive_is_the_same_every_time():
    """The search is seeded."""
    case = v_orders.setting(3, 7, 3, 5, 2, 1)
    first, second = (create("v-adaptive").program(case).to_csv() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("p", [3, 4, 7])
def test_too_little_memory_names_what_would_do(p):
    """The limit in the message is accepted, and gives a program."""
    with pytest.raises(ScheduleError, match="memory_limit must be at least") as error:
        create("v-adaptive", memory_limit=0.5 / p).program(Setting(p, 4))
    least = float(re.search(r"at least ([\d.]+)", str(error.value))[1])
    verify(create("v-adaptive", memory_limit=least, effort=0.1).program(Setting(p, 4)))


def test_v_half_is_generated_fast():
    """32 ranks, 96 micro-batches: two seconds allowed, about ten milliseconds needed once compiled."""
    create("v-half").program(Setting(2, 2))
    begin = time.perf_counter()
    create("v-half").program(Setting(32, 96))
    assert time.perf_counter() - begin < 2
