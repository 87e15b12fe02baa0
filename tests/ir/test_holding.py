"""The fullest moments of a rank decide its peak, whatever its stages' activations are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from replay import costs

from pipesim.engine import event
from pipesim.ir.connect import connect
from pipesim.ir.holding import fullest
from pipesim.lowering.bind import bind
from pipesim.lowering.memory import activation_effects
from pipesim.metrics.memory import peaks, resident
from pipesim.schedules import Setting, create


def test_1f1b_holds_as_many_micro_batches_as_there_are_ranks_left():
    """One moment per rank, none of them for a split backward."""
    held = fullest(create("1f1b").program(Setting(4, 8)))
    assert [(each.stages.tolist(), each.whole.tolist(), each.late.tolist()) for each in held] == [
        ([rank], [[4 - rank]], [[0]]) for rank in range(4)
    ]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gpipe", {}),
        ("1f1b", {}),
        ("interleaved-1f1b", {"chunks": 2}),
        ("chimera", {}),
        ("zb-h1", {}),
        ("zb-v", {}),
        ("dualpipe", {}),
        ("dualpipe-v", {}),
        ("hanayo", {}),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_peaks_follow_from_the_fullest_moments(name, options, seed):
    """The peak of a replay is the fullest moment's bytes, for random activations and random parts kept for W."""
    program = create(name, **options).program(Setting(4, 8))
    rng, price = np.random.default_rng(seed), costs(program)
    kept = rng.integers(1, 20, program.placement.stages).astype(float)
    late = np.floor(kept * rng.random(len(kept)))
    price = replace(price, sizes=replace(price.sizes, activations=kept, weight_grad_activations=late))
    timeline = event.run(bind(connect(program), price))
    found = peaks(timeline, activation_effects(timeline.graph, price.sizes), resident(timeline.graph, price))
    expected = [(whole @ kept[stages] + rest @ late[stages]).max() for stages, whole, rest in fullest(program)]
    assert found.activations == pytest.approx(expected, rel=1e-12)  # sums of floats in another order
