"""Functions in machine code (numba), kept on disk for later processes where they can be.

Importing this costs what importing numba costs: only modules that are loaded when needed may do so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def jit(function: Function) -> Function:
    """Compile a function at its first call."""
    return _kept(function, "never")


def inlined(function: Function) -> Function:
    """Compile a function into those that call it."""
    return _kept(function, "always")


def _kept(function: Function, inline: Literal["never", "always"]) -> Function:
    try:
        compiled: Any = njit(cache=True, inline=inline)(function)
    except RuntimeError:  # neither the folder of the package nor the user's cache can be written
        compiled = njit(inline=inline)(function)
    kept: Function = compiled
    return kept
