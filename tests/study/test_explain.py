"""An explanation is the idle intervals by cause, and what more speed would bring."""

from __future__ import annotations

import json

import pytest

import pipesim

CONFIG = {
    "pipeline": {"ranks": 4, "microbatches": 8},
    "costs": {"forward": 3, "input_grad": 4, "weight_grad": 5, "p2p": 2},
    "schedule": "1f1b",
}


@pytest.fixture(scope="module")
def explanation():
    return pipesim.explain(CONFIG)


def test_causes_are_the_idle_parts_of_the_breakdown(explanation):
    """Means over ranks, most idle time first."""
    parts = explanation.result.metrics["time_breakdown"]
    causes = {row["cause"]: row["mean_s"] for row in explanation.causes}
    assert causes == {name: parts[name] for name in ("dependency", "drain", "exposed_p2p", "warmup")}
    assert list(causes.values()) == sorted(causes.values(), reverse=True)


def test_the_longest_wait_is_the_first_gradient(explanation):
    """Rank 0 waits for it from its fourth forward on, through three forwards and backwards of other ranks."""
    assert explanation.causes[0]["longest"][0] == {
        "rank": 0,
        "start_s": 12.0,
        "end_s": 49.0,
        "waiting_for": "1B0",
        "on_rank": 1,
    }


def test_the_text_says_why_and_what(explanation):
    """Causes, the longest waits of each, and gains where they are worth a line."""
    text = str(explanation)
    assert "Of a step of 164, ranks idle 68 on average" in text
    assert "waiting for an op     0    12   49  1B0        on rank 1" in text
    assert "last stage                         3.6   2.2 %  2.4   1.5 %" in text


def test_it_is_plain_data(explanation):
    """The JSON form survives a round trip."""
    plain = explanation.as_json()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["sensitivities"][0] == {"what": "forward", "first_order_s": 3.3, "gain_s": 3.3}


def test_a_result_is_explained_as_it_is(explanation):
    """Without simulating it again."""
    assert pipesim.explain(explanation.result).result is explanation.result


def test_a_shared_network_is_explained_too():
    """With ports to queue for, transfers are exposed for longer than they take."""
    config = {**CONFIG, "simulation": {"network": "fifo"}}
    idle = pipesim.explain(config).idle
    assert set(idle["cause"]) >= {"exposed_p2p"}
