"""Triggers of gradient reductions."""

from __future__ import annotations

import numpy as np

from pipesim.ir.placement import Placement, looped
from pipesim.ir.program import Program
from pipesim.schedules.sync import after_everything, before_next_gap, last_backwards


def test_last_backwards_counts_the_weight_gradient():
    """A stage's gradient is done after its last W or B, not after its last I."""
    orders = [["0F0", "0F1", "0I0", "0W0", "0I1", "0W1"], ["1F0", "1B0", "1F1", "1I1", "1W1"]]
    program = Program.from_orders(Placement.of(2, [0, 1]), orders)
    assert last_backwards(program).tolist() == [[5, -1], [-1, 10]]


def test_every_stage_of_a_rank_has_its_own_trigger():
    """Two chunks per rank: the later stage is done first."""
    orders = [["0F0", "2F0", "2B0", "0B0"], ["1F0", "3F0", "3B0", "1B0"]]
    program = Program.from_orders(looped(2, 2), orders)
    assert last_backwards(program).tolist() == [[3, -1, 2, -1], [-1, 7, -1, 6]]
    assert after_everything(program).tolist() == [[3, -1, 3, -1], [-1, 7, -1, 7]]


def test_an_unused_replica_waits_for_nothing():
    """The only micro-batch goes down: the up replicas may be reduced after the ranks' first ops."""
    placement = Placement.of(2, [[0, 1], [1, 0]])
    program = Program.from_orders(placement, [["0F0", "0B0"], ["1F0", "1B0"]], route_of=[0])
    assert last_backwards(program).tolist() == [[1, 0], [2, 3]]


def test_triggers_are_put_off_to_the_next_idle_slot():
    """Slots 0 1 . 3 4 on one rank: a trigger at the first op moves to the second, one at the third to the last."""
    program = Program.from_orders(Placement.of(1, [0]), [["0F0", "0B0", "0F1", "0B1"]])
    slot = np.array([0, 1, 3, 4])
    moved = [before_next_gap(program, slot, np.array([[trigger]])).item() for trigger in (0, 1, 2, 3, -1)]
    assert moved == [1, 1, 3, 3, -1]
