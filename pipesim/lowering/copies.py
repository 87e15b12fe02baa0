"""When the ranks of one PCIe switch copy activations to the host and back.

Time is cut into slots as long as the longest copy. A rank makes one copy per slot (it has one copy stream), and a
switch carries one per direction: so while one rank copies out, another can copy in, and neighbours end up shifted
against each other by a slot. Reloads are placed first, from the last to the first, each in the last slot that ends
before it is needed; then offloads, from the first to the last, each in the first slot after its forward. As the
slots are fixed, no time is lost between copies, so that the link can be busy throughout.

After PipeOffload (arXiv 2503.01328, section 4.2) and sail-sg/zero-bubble-pipeline-parallelism:megatron/core/
pipeline_parallel/zerobubble/scheduler/offloading.py, whose slots alternate between the directions instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


def plan(stays: Stays, alone: float, patience: float, shift: float = 0.0) -> Copies:
    """Copies of all stays that are worth it, none of which makes anything late.

    Not worth it: stays no longer than ``patience`` round trips, and those whose copies back would have to start
    before, or right when, those out have ended; the shortest of these are left out until it works. ``alone``: what
    a copy takes while nothing is copied the other way, as a part of its time. ``shift``: moves the slots, in slots.
    """
    step = int(max(stays.out.max(initial=0), stays.back.max(initial=0)))
    if step == 0:
        return _free(stays)
    turns = max(2, len(np.unique(stays.lane)))
    which = np.flatnonzero(stays.due - stays.made > patience * turns * step)
    quick = max(1, int(np.ceil(step * alone)))
    first = int(shift * step) if quick == step else int(stays.due[which].min(initial=NEVER)) - 2 * step
    last = int(stays.made[which].max(initial=0)) + 2 * step
    slots = Slots(step, quick, first, max(0, -((first - last) // step)) if quick < step else 0)
    widenings = 0
    while widenings < _WIDENINGS:
        out, back = _place(stays.select(which), slots)
        crossing = np.flatnonzero(back <= out + 1)
        if len(crossing):
            which = _without_shortest(stays, which, crossing)
            continue
        wider = _widened(slots, out, back)
        if wider == slots:
            return _timed(stays, which, slots, out, back, alone)
        slots, widenings = wider, widenings + 1
    return plan(stays, 1.0, patience, shift)


_WIDENINGS = 20
"""So often is the time in which both directions may be in use corrected; then it is taken to be all the time."""


def _place(stays: Stays, slots: Slots) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Slots of the copies out and back, each (K,)."""
    lanes = [int(lane) for lane in stays.lane]
    taken: list[set[int]] = [set() for _ in range(max(lanes, default=-1) + 1)]
    back = np.empty(len(stays), np.int64)
    used: set[int] = set()
    bound = [NEVER] * len(taken)
    due = [slots.last_until(moment) for moment in stays.due.tolist()]
    for job in np.lexsort((stays.lane, -stays.due)).tolist():
        lane = lanes[job]
        slot = min(due[job], bound[lane] - 1)
        while slot in used:
            slot -= 1
        used.add(slot)
        taken[lane].add(slot)
        back[job] = bound[lane] = slot
    return _place_out(stays, slots, lanes, taken), back


def _place_out(stays: Stays, slots: Slots, lanes: Sequence[int], taken: Sequence[set[int]]) -> NDArray[np.int64]:
    out = np.empty(len(stays), np.int64)
    used: set[int] = set()
    bound = [-NEVER] * len(taken)
    made = [slots.next_from(moment) for moment in stays.made.tolist()]
    for job in np.lexsort((stays.lane, stays.made)).tolist():
        lane = lanes[job]
        slot = max(made[job], bound[lane] + 1)
        while slot in used or slot in taken[lane]:
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


def _free(stays: Stays) -> Copies:
    """Copies that take no time."""
    which = np.flatnonzero(stays.due > stays.made)
    made, due = stays.made[which], stays.due[which]
    no = np.zeros(len(which), bool)
    return Copies(which, made, made, due, due, no, no, made, due)
