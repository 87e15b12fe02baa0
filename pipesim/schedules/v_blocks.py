"""All building blocks of a V placement with uniform offsets, in unit slots.

Source: arXiv 2405.15362, section 3.1 and appendix A.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import permutations

import numpy as np

from pipesim.schedules.v_journey import LEGS, OPS, Ints

PERIOD = OPS
"""Slots in which a block repeats: one for each op of a rank and micro-batch."""


@lru_cache(maxsize=8)
def longest_first(ranks: int, limit: int) -> list[Ints]:
    """`uniform_blocks`, those that hold activations longest first: they leave the smallest bubble."""
    return sorted(uniform_blocks(ranks, limit), key=residence, reverse=True)


def residence(block: Ints) -> int:
    """Slots that a block's two activations are held at least, on the rank with the most: from F until I and W end."""
    return int((block[3] - block[0] + block[2] - block[1]).max()) + 4


def uniform_blocks(ranks: int, limit: int) -> Iterator[Ints]:
    """Blocks of four legs, shape (4, P), in unit slots, that a limit on activations may allow.

    Rank 0 runs its legs in any four different slots modulo 6. From rank to rank the legs down come 1 to 5 slots
    later, up to some rank by more than after it, and the legs up one slot earlier (arXiv 2405.15362, section 3.1
    and appendix A). A leg may also wait for a whole period at either end of the near chunk's stay.
    """
    first = np.array([(0, *rest) for rest in permutations(range(1, PERIOD), LEGS - 1)])
    for down in _descents(ranks):
        step = np.stack([down, -np.arange(ranks), down, -np.arange(ranks)])
        slots = (first[:, :, None] + step) % PERIOD
        distinct = (np.diff(np.sort(slots, axis=1), axis=1) > 0).all(axis=(1, 2))
        for residues in slots[distinct]:
            block = _unwind(residues)
            for early, late in ((0, 0), (1, 0), (0, 1), (1, 1)):
                longer = block + PERIOD * np.array([0, early, early, early + late])[:, None]
                if residence(longer) <= PERIOD * limit:
                    yield longer


def straight(ranks: int) -> Ints:
    """The block in which a micro-batch never waits, for limits that no block of one period keeps."""
    rank = np.arange(ranks)
    return np.stack([rank, 2 * ranks - 1 - rank, 2 * ranks + rank, 4 * ranks - 1 - rank])


def _descents(ranks: int) -> Iterator[Ints]:
    """Slots of a leg down relative to rank 0: steps of one size up to some rank, and of a smaller one after it."""
    place = np.arange(ranks - 1)
    for large in range(1, PERIOD):
        for small in range(1, large + 1):
            for turn in range(1, ranks) if small < large else [ranks]:
                yield np.concatenate([[0], np.cumsum(np.where(place < turn, large, small))])


def _unwind(residues: Ints) -> Ints:
    """The earliest block with these slots modulo 6, along the journey of a micro-batch."""
    block = np.zeros_like(residues)
    slot = -1
    for leg, row in enumerate(residues):
        for rank in range(len(row)) if leg % 2 == 0 else range(len(row) - 1, -1, -1):
            slot += 1 + (row[rank] - slot - 1) % PERIOD
            block[leg, rank] = slot
    return block
