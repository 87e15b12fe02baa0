"""Numbers for people: seconds, bytes and shares with a unit that suits them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pipesim.errors import PipesimError, nearest

TIME_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9, "ps": 1e12}
"""Units per second."""

SYMBOLS = {"us": "µs"}

PLAIN = "unit"
"""The unit of abstract costs, which are no seconds."""

BYTE_UNITS = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}
"""Bytes per unit (decimal, as in the sizes that vendors print)."""


BINARY_UNITS = {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40}
"""Never chosen, but understood."""


def time_unit(span_s: float) -> str:
    """The unit in which ``span_s`` is at least 1, picoseconds at the finest."""
    for unit, per_second in TIME_UNITS.items():
        if abs(span_s) * per_second >= 1:
            return unit
    return "s" if span_s == 0 else "ps"


def time_scale(unit: str) -> float:
    """What seconds are multiplied with to be shown in ``unit``.

    Raises:
        PipesimError: the unit is unknown.
    """
    return _known(unit, TIME_UNITS, "time")


def _known(unit: str, units: Mapping[str, float], quantity: str) -> float:
    if unit == PLAIN:
        return 1.0
    if unit not in units:
        allowed = [*units, PLAIN]
        hint = {name.lower(): name for name in allowed}.get(nearest(unit, map(str.lower, allowed)) or "")
        raise PipesimError(
            f"{quantity} unit {unit!r} is unknown; allowed: {', '.join(allowed)}"
            + (f"; did you mean {hint!r}?" if hint else "")
        )
    return units[unit]


def time_axis_label(unit: str) -> str:
    """``time (ms)``, or just ``time`` for abstract costs."""
    return "time" if unit == PLAIN else f"time ({SYMBOLS.get(unit, unit)})"


def digits(value: float, significant: int = 4) -> str:
    """``value`` with that many significant digits and without an exponent."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return str(value)
    decimals = significant - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(decimals, 0), 12)}f}"


def grouped(value: float) -> str:
    """A large number rounded to whole ones in groups of three, a small one with four digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else digits(value)


def duration(seconds: float, unit: str | None = None) -> str:
    """Seconds with a fitting unit, or in a given one (`PLAIN` prints the bare number)."""
    if unit == PLAIN:
        return f"{seconds:.6g}"
    unit = unit or time_unit(seconds)
    return f"{digits(seconds * time_scale(unit))} {SYMBOLS.get(unit, unit)}"


def durations(values: Sequence[float], total: float, unit: str | None = None) -> list[str]:
    """Parts of a total, all in the unit and with the decimals that suit the total."""
    if unit == PLAIN:
        _, _, decimals = digits(total).partition(".")
        return [f"{round(value, len(decimals)):g}" for value in values]
    unit = unit or time_unit(total)
    _, _, decimals = digits(total * time_scale(unit)).partition(".")
    return [f"{value * time_scale(unit):.{len(decimals)}f} {SYMBOLS.get(unit, unit)}" for value in values]


def byte_unit(amount: float) -> str:
    """The largest unit in which ``amount`` is at least 1."""
    fitting = [unit for unit, size in BYTE_UNITS.items() if abs(amount) >= size]
    return fitting[-1] if fitting else "B"


def byte_scale(unit: str) -> float:
    """Bytes per ``unit``.

    Raises:
        PipesimError: the unit is unknown.
    """
    return _known(unit, BYTE_UNITS | BINARY_UNITS, "memory")


def memory_axis_label(unit: str) -> str:
    """``memory (GB)``, or just ``memory`` for abstract costs."""
    return "memory" if unit == PLAIN else f"memory ({unit})"


def size(amount: float, unit: str | None = None) -> str:
    """Bytes with a fitting unit, or in a given one (`PLAIN` prints the bare number)."""
    if unit == PLAIN:
        return f"{amount:.6g}"
    unit = unit or byte_unit(amount)
    return f"{digits(amount / byte_scale(unit), 3)} {unit}"


def share(fraction: float) -> str:
    """A fraction in per cent."""
    return f"{100 * fraction:.1f} %"
