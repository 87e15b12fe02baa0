"""pipesim: a discrete-event simulator of pipeline-parallel training."""

from __future__ import annotations

__version__ = "0.1.0"
