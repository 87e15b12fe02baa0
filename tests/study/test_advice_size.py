"""What would make a plan fit is looked for only where that takes seconds."""

from __future__ import annotations

import pytest

from pipesim import api
from pipesim.study.advice import MAX_TRIED, advise, too_large

CONFIG = {
    "model": {"layers": 8, "hidden": 8192, "heads": 64, "vocab": 51200, "sequence": 2048},
    "cluster": {"gpu": {"base": "a100-sxm-80gb", "memory": "1 GB"}, "nodes": 1},
    "parallelism": {"pipeline": 4},
    "schedule": "1f1b",
    "training": {"global_batch": 8},
}


@pytest.mark.parametrize("beyond", [0, 1])
def test_the_limit_is_on_ops(beyond):
    """F, I and W of four stages: the largest number of micro-batches that is tried, and one more."""
    microbatches = MAX_TRIED // (3 * 4) + beyond
    assert too_large(api.load(CONFIG, [f"training.global_batch={microbatches}"])) == bool(beyond)


def test_a_plan_beyond_it_gets_no_advice():
    """Small ones do."""
    assert advise(CONFIG)
    assert advise(api.load(CONFIG, [f"training.global_batch={MAX_TRIED}"])) == []
