"""Repeated measurements of one thing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

WIDE = 0.1
"""A spread from which on a median says little: half of the repeats lie more than this apart."""


@dataclass(frozen=True)
class Samples:
    """Seconds of every repeat."""

    seconds: tuple[float, ...]

    @cached_property
    def median_s(self) -> float:
        """The median, which a few disturbed repeats do not move."""
        return float(np.median(self.seconds))

    @cached_property
    def spread(self) -> float:
        """Distance between the quartiles, as a share of the median."""
        low, high = np.quantile(self.seconds, (0.25, 0.75))
        return float(high - low) / self.median_s if self.median_s > 0 else 0.0
