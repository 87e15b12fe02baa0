"""pipesim: a discrete-event simulator of pipeline-parallel training.

    import pipesim
    result = pipesim.simulate("configs/gpt3_175b_a100.yaml")

Names are resolved when they are first used, so that importing the package is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipesim.api import load, plan, program, simulate
    from pipesim.result import Result
    from pipesim.schedules import schedule
    from pipesim.study.advice import advise
    from pipesim.study.calibrate import calibrate
    from pipesim.study.compare import compare
    from pipesim.study.explain import explain
    from pipesim.study.replay import replay
    from pipesim.study.sweep import sweep
    from pipesim.study.trace import read_trace

from pipesim.version import __version__

_HOME = {
    "load": "pipesim.api",
    "plan": "pipesim.api",
    "program": "pipesim.api",
    "simulate": "pipesim.api",
    "calibrate": "pipesim.study.calibrate",
    "compare": "pipesim.study.compare",
    "sweep": "pipesim.study.sweep",
    "replay": "pipesim.study.replay",
    "read_trace": "pipesim.study.trace",
    "advise": "pipesim.study.advice",
    "explain": "pipesim.study.explain",
    "Result": "pipesim.result",
    "schedule": "pipesim.schedules",
}

__all__ = [
    "Result",
    "__version__",
    "advise",
    "calibrate",
    "compare",
    "explain",
    "load",
    "plan",
    "program",
    "read_trace",
    "replay",
    "schedule",
    "simulate",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'pipesim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
