"""When the ranks of one PCIe switch copy activations to the host and back.

Time is cut into slots as long as the longest copy. A rank makes one copy per slot (it has one copy stream), and a
switch carries one per direction: so while one rank copies out, another can copy in, and neighbours end up shifted
against each other by a slot. Reloads are placed first, from the last to the first, each in the last slot that ends
before it is needed; then offloads, from the first to the last, each in the first slot after its forward. As the
slots are fixed, no time is lost between copies, so that the link can be busy throughout.

PipeOffload (arXiv 2503.01328, section 4.2) and its released scheduler (sail-sg/zero-bubble-pipeline-parallelism:
megatron/core/pipeline_parallel/zerobubble/scheduler/offloading.py) reserve every second slot of a rank for each
direction, shifted by one slot on odd ranks. Reserved slots stay empty where there is nothing to copy that way, so
that activations wait longer than they need to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Picoseconds = NDArray[np.int64]
NEVER = 2**62


@dataclass(frozen=True, eq=False)
class Stays:
    """Activations that ranks of one switch hold, arrays of one length.

    ``made`` and ``due``: end of the forward and start of the op that needs them again, in picoseconds. ``out`` and
    ``back``: picoseconds of the copies. ``lane``: a number for each rank.
    """

    lane: NDArray[np.int64]
    made: Picoseconds
    due: Picoseconds
    out: Picoseconds
    back: Picoseconds

    def __len__(self) -> int:
        return len(self.lane)

    def select(self, chosen: NDArray[np.int64]) -> Stays:
        """Some of them."""
        return Stays(*(getattr(self, name)[chosen] for name in ("lane", "made", "due", "out", "back")))


@dataclass(frozen=True)
class Slots:
    """Slots of length ``step`` between ``first`` and ``last``, of length ``alone`` before and after.

    Between the two, both directions may be in use; before there are only offloads and after only reloads, which
    then have the link for themselves. Slot 0 starts at ``first``.
    """

    step: int
    alone: int
    first: int
    count: int

    @property
    def last(self) -> int:
        """End of the slots in which both directions may be in use."""
        return self.first + self.count * self.step

    def start(self, slot: int) -> int:
        """When a slot starts, picoseconds."""
        if slot < 0:
            return self.first + slot * self.alone
        return self.first + slot * self.step if slot <= self.count else self.last + (slot - self.count) * self.alone

    def next_from(self, moment: int) -> int:
        """The first slot that starts at ``moment`` or later."""
        if moment <= self.first:
            return -((self.first - moment) // self.alone)
        if moment <= self.last:
            return -((self.first - moment) // self.step)
        return self.count - ((self.last - moment) // self.alone)

    def last_until(self, moment: int) -> int:
        """The last slot that ends at ``moment`` or earlier."""
        if moment <= self.first:
            return (moment - self.first) // self.alone - 1
        if moment <= self.last:
            return (moment - self.first) // self.step - 1
        return self.count + (moment - self.last) // self.alone - 1

    def is_alone(self, slot: int) -> bool:
        """Whether nothing is copied the other way in this slot."""
        return self.alone < self.step and not 0 <= slot < self.count


@dataclass(frozen=True)
class Rule:
    """How copies are placed.

    ``alone``: what a copy takes while nothing is copied the other way, as a part of its time. ``patience``: stays of
    up to so many rounds of the ranks' copies are not copied. ``shift``: moves the slots, in slots. ``alternating``:
    a rank's slots are reserved for one direction each.
    """

    alone: float = 1.0
    patience: float = 1.0
    shift: float = 0.0
    alternating: bool = False


class Copies(NamedTuple):
    """Copies of some of the stays: which (K,), and start and end of both copies, each (K,); whether each is alone."""

    which: NDArray[np.int64]
    out_start: Picoseconds
    out_end: Picoseconds
    back_start: Picoseconds
    back_end: Picoseconds
    out_alone: NDArray[np.bool_]
    back_alone: NDArray[np.bool_]
    out_slot: NDArray[np.int64]
    back_slot: NDArray[np.int64]


def plan_copies(stays: Stays, rule: Rule) -> Copies:
    """Copies of all stays that are worth it, none of which makes anything late.

    Not worth it: stays that are short, and those whose copies back would have to start before, or right when, those
    out have ended; the shortest of these are left out until it works.
    """
    turns = max(2, len(np.unique(stays.lane)))
    longest = np.maximum(stays.out, stays.back)
    which = np.flatnonzero(stays.due - stays.made > rule.patience * turns * longest)
    step = int(longest[which].max(initial=0))
    if step == 0:
        return _free(stays, which)
    slots, widenings = _slots(stays.select(which), step, rule), 0
    period = turns if rule.alternating else 1
    while widenings < _WIDENINGS:
        out, back = _place(stays.select(which), slots, period)
        crossing = np.flatnonzero(back <= out + 1)
        if len(crossing):
            which = _without_shortest(stays, which, crossing)
            continue
        wider = _widened(slots, out, back)
        if wider == slots:
            return _timed(stays, which, slots, out, back, rule.alone)
        slots, widenings = wider, widenings + 1
    return plan_copies(stays, replace(rule, alone=1.0))


def _slots(stays: Stays, step: int, rule: Rule) -> Slots:
    """Both directions from a little before the first activation is due until a little after the last is made.

    Alternating slots are for both directions until the end, as the released scheduler shortens those of the warm-up
    alone.
    """
    quick = max(1, int(np.ceil(step * rule.alone)))
    if quick == step:
        return Slots(step, step, int(rule.shift * step), 0)
    first = int(stays.due.min()) - int((2 - rule.shift) * step)
    busy_until = int(stays.due.max() if rule.alternating else stays.made.max()) + 2 * step
    return Slots(step, quick, first, max(0, -((first - busy_until) // step)))


_WIDENINGS = 20
"""So often is the time in which both directions may be in use corrected; then it is taken to be all the time."""


def _place(stays: Stays, slots: Slots, period: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Slots of the copies out and back, each (K,); of a ``period`` of slots, each lane has one per direction."""
    lanes = [int(lane) for lane in stays.lane]
    taken: list[set[int]] = [set() for _ in range(max(lanes, default=-1) + 1)]
    back = np.empty(len(stays), np.int64)
    used: set[int] = set()
    bound = [NEVER] * len(taken)
    due = [slots.last_until(moment) for moment in stays.due.tolist()]
    for job in np.lexsort((stays.lane, -stays.due)).tolist():
        lane = lanes[job]
        slot = min(due[job], bound[lane] - 1)
        while slot in used or (slot - lane - 1) % period:
            slot -= 1
        used.add(slot)
        taken[lane].add(slot)
        back[job] = bound[lane] = slot
    return _place_out(stays, slots, period, taken), back


def _place_out(stays: Stays, slots: Slots, period: int, taken: Sequence[set[int]]) -> NDArray[np.int64]:
    lanes = [int(lane) for lane in stays.lane]
    out = np.empty(len(stays), np.int64)
    used: set[int] = set()
    bound = [-NEVER] * len(taken)
    made = [slots.next_from(moment) for moment in stays.made.tolist()]
    for job in np.lexsort((stays.lane, stays.made)).tolist():
        lane = lanes[job]
        slot = max(made[job], bound[lane] + 1)
        while slot in used or slot in taken[lane] or (slot - lane) % period:
            slot += 1
        used.add(slot)
        out[job] = bound[lane] = slot
    return out


def _without_shortest(stays: Stays, which: NDArray[np.int64], crossing: NDArray[np.int64]) -> NDArray[np.int64]:
    """Leave out the shortest quarter of the stays whose copies cross."""
    length = (stays.due - stays.made)[which[crossing]]
    shortest = crossing[np.argsort(length, kind="stable")][: max(1, len(crossing) // 4)]
    return np.delete(which, shortest)


def _widened(slots: Slots, out: NDArray[np.int64], back: NDArray[np.int64]) -> Slots:
    """The slots with all reloads after ``first`` and all offloads before ``last``."""
    if slots.alone == slots.step or not len(out):
        return slots
    first = min(slots.first, slots.start(int(back.min())))
    last = max(slots.last, slots.start(int(out.max()) + 1))
    return Slots(slots.step, slots.alone, first, -((first - last) // slots.step))


def _timed(
    stays: Stays, which: NDArray[np.int64], slots: Slots, out: NDArray[np.int64], back: NDArray[np.int64], alone: float
) -> Copies:
    """Offloads start with their slots, reloads end with theirs."""
    out_alone, back_alone = (np.array([slots.is_alone(s) for s in part.tolist()], bool) for part in (out, back))
    out_start = np.array([slots.start(slot) for slot in out.tolist()], np.int64)
    back_end = np.array([slots.start(slot + 1) for slot in back.tolist()], np.int64)
    out_length = np.where(out_alone, np.rint(stays.out[which] * alone), stays.out[which]).astype(np.int64)
    back_length = np.where(back_alone, np.rint(stays.back[which] * alone), stays.back[which]).astype(np.int64)
    return Copies(
        which, out_start, out_start + out_length, back_end - back_length, back_end, out_alone, back_alone, out, back
    )


def _free(stays: Stays, which: NDArray[np.int64]) -> Copies:
    """Copies that take no time."""
    made, due = stays.made[which], stays.due[which]
    no = np.zeros(len(which), bool)
    return Copies(which, made, made, due, due, no, no, made, due)
