"""What a schedule says about activations that go to host memory between forward and backward."""

from __future__ import annotations

from typing import NamedTuple


class Offloading(NamedTuple):
    """Which activations leave, and how their copies share the links.

    ``share``: part of each rank's activations, those that live longest. ``alternating``: every second slot of the
    copy stream is for one direction, as PipeOffload's released scheduler has it; otherwise slots are used as needed.
    ``may_wait``: the step waits for copies that take longer than computing; otherwise they are refused.
    """

    share: float
    alternating: bool = False
    may_wait: bool = False
