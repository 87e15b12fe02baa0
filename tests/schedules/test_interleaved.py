"""Interleaved 1F1B: what it refuses."""

from __future__ import annotations

import pytest

from pipesim.errors import ScheduleError
from pipesim.schedules import create


def test_fewer_microbatches_than_ranks_are_refused_with_a_number_that_would_do():
    """No group size lies between P and M then; P micro-batches will do, or one chunk."""
    schedule = create("interleaved-1f1b")
    with pytest.raises(ScheduleError, match="use 6 micro-batches or more, or chunks: 1"):
        schedule.check(6, 5)
    schedule.check(6, 6)
    create("interleaved-1f1b", chunks=1).check(6, 5)
