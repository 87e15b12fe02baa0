"""Max-min fair rates: worked examples, a published simulator's expectations, and what makes rates max-min fair."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesim.engine.max_min import max_min

UNBOUND = 10**9

rates = st.fractions(min_value=Fraction(1, 8), max_value=8, max_denominator=12)


@st.composite
def networks(draw):
    """Up to eight flows, each over one to four of five ports."""
    capacity = {port: draw(rates) for port in range(5)}
    paths = draw(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True), max_size=8))
    return paths, [draw(rates) for _ in paths], capacity


def load(paths, found):
    """What each port carries."""
    carried = Counter()
    for path, rate in zip(paths, found, strict=True):
        for port in path:
            carried[port] += rate
    return carried


@pytest.mark.parametrize(
    ("paths", "caps", "capacity", "expected"),
    [
        ([[0], [0]], [UNBOUND, UNBOUND], {0: 1}, [Fraction(1, 2)] * 2),
        ([[0], [0], [0]], [UNBOUND, Fraction(1, 4), UNBOUND], {0: 1}, [Fraction(3, 8), Fraction(1, 4), Fraction(3, 8)]),
        ([[0, 1], [0], [1]], [UNBOUND] * 3, {0: 1, 1: 1}, [Fraction(1, 2)] * 3),
        ([[0, 1], [0], [1]], [UNBOUND] * 3, {0: 1, 1: 2}, [Fraction(1, 2), Fraction(1, 2), Fraction(3, 2)]),
        ([[0, 1], [0], [0], [1]], [UNBOUND] * 4, {0: 1, 1: 1}, [*[Fraction(1, 3)] * 3, Fraction(2, 3)]),
    ],
)
def test_worked_examples(paths, caps, capacity, expected):
    """Halves, a capped flow, one flow over two links with one other on each (even and uneven), two bottlenecks."""
    assert max_min(paths, caps, capacity) == expected


@pytest.mark.parametrize(
    ("paths", "capacity", "expected"),
    [
        ([[0], [0, 0]], {0: 3}, [1, 1]),
        ([[0], [0]], {0: 20}, [10, 10]),
        ([[0, 1, 1], [0], [1]], {0: 20, 1: 60}, [10, 10, 40]),
    ],
)
def test_expectations_of_simgrid(paths, capacity, expected):
    """What SimGrid expects of its max-min solver (simgrid/simgrid src/kernel/lmm/maxmin_test.cpp, 08e7455).

    Its cases of shared constraints: "consumption weight", "consumption weight + variable penalty", "multiple
    constraints systems". A weight of 2 is a port crossed twice; a variable of penalty p is 1/p of our rate, so its
    5 = 10 / 2 for the second variable of the last two is 10 here, and its weight over penalty 2 / 2 = 1 crossing.
    """
    assert max_min(paths, [UNBOUND] * len(paths), capacity) == expected


def test_one_long_and_three_short_flows():
    """Links of 1, 10 and 1, a flow over all, one over each (the network of SimGrid's lmm_usage, test 1)."""
    found = max_min([[0, 1, 2], [0], [1], [2]], [UNBOUND] * 4, {0: 1, 1: 10, 2: 1})
    assert found == [Fraction(1, 2), Fraction(1, 2), Fraction(19, 2), Fraction(1, 2)]


@given(networks())
def test_no_port_and_no_flow_exceeds_its_limit(network):
    """Exactly, since rates are fractions."""
    paths, caps, capacity = network
    found = max_min(paths, caps, capacity)
    assert all(0 < rate <= cap for rate, cap in zip(found, caps, strict=True))
    assert all(carried <= capacity[port] for port, carried in load(paths, found).items())


@given(networks())
def test_no_flow_can_have_more_without_taking_from_one_with_no_more(network):
    """Every flow is at its cap or has a bottleneck: a full port where nobody has more than it.

    That is what makes rates max-min fair (Bertsekas and Gallager, Data Networks, section 6.5.2).
    """
    paths, caps, capacity = network
    found = max_min(paths, caps, capacity)
    carried = load(paths, found)
    largest = {port: max(r for path, r in zip(paths, found, strict=True) if port in path) for port in carried}
    for path, cap, rate in zip(paths, caps, found, strict=True):
        bottlenecks = [port for port in path if carried[port] == capacity[port] and largest[port] == rate]
        assert rate == cap or bottlenecks


@given(networks(), st.randoms())
def test_the_order_of_flows_does_not_matter(network, random):
    """Max-min fair rates are unique."""
    paths, caps, capacity = network
    order = random.sample(range(len(paths)), len(paths))
    shuffled = max_min([paths[i] for i in order], [caps[i] for i in order], capacity)
    assert shuffled == [max_min(paths, caps, capacity)[i] for i in order]
