"""Quantities with units, parsed at the edge: ``"80 GB"`` in, a float in SI units out.

Prefixes are decimal (GB = 1e9), GiB = 2**30. A small ``b`` is a bit, a capital ``B`` a byte, and case is
never guessed: ``"400 Gb/s"`` is 50e9 bytes per second, ``"400 gb/s"`` is an error. Plain numbers are SI.
"""

from __future__ import annotations

import difflib
import math
import re
from numbers import Real
from typing import Literal

from pipesim.errors import PipesimError

Dimension = Literal["bytes", "bytes_per_s", "seconds", "flops_per_s"]

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTP", start=1)}
_BYTES = {f"{prefix}B": factor for prefix, factor in (_DECIMAL | _BINARY).items()}
_BITS = {f"{prefix}{bit}": factor / 8 for prefix, factor in (_DECIMAL | _BINARY).items() for bit in ("b", "bit")}

UNITS: dict[Dimension, dict[str, float]] = {
    "bytes": _BYTES,
    "bytes_per_s": {f"{unit}/s": factor for unit, factor in (_BYTES | _BITS).items()}
    | {f"{prefix}bps": factor / 8 for prefix, factor in _DECIMAL.items()},
    "seconds": {
        "s": 1.0,
        "ms": 1e-3,
        "us": 1e-6,
        "µs": 1e-6,  # U+00B5, the micro sign
        "μs": 1e-6,  # U+03BC, the Greek letter
        "ns": 1e-9,
        "ps": 1e-12,
        "min": 60.0,
        "h": 3600.0,
    },
    "flops_per_s": {f"{prefix}{flop}": factor for prefix, factor in _DECIMAL.items() for flop in ("FLOP/s", "FLOPS")},
}

EXAMPLES: dict[Dimension, str] = {
    "bytes": '"80 GB", "16 GiB" or a number of bytes',
    "bytes_per_s": '"50 GB/s", "400 Gb/s" (bits) or a number of bytes per second',
    "seconds": '"3 us", "1.5 ms" or a number of seconds',
    "flops_per_s": '"312 TFLOP/s" or a number of FLOP/s',
}
_QUANTITY = re.compile(r"([+-]?(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*)", re.DOTALL)


class UnitError(PipesimError, ValueError):
    """A quantity that cannot be read; carries what a config `Problem` needs."""

    def __init__(self, message: str, found: object, allowed: str, nearest_unit: str | None = None) -> None:
        self.message = message
        self.found = repr(found)
        self.allowed = allowed
        self.nearest = nearest_unit
        hint = f"; did you mean {nearest_unit}?" if nearest_unit else ""
        super().__init__(f"{message}; found {self.found}; allowed: {allowed}{hint}")


LARGEST = 1e24
"""No quantity is larger: sums and products of a few of them stay finite."""


def parse(value: object, dimension: Dimension, *, positive: bool = False) -> float:
    """The quantity as a float in SI units (bytes, bytes/s, seconds, FLOP/s).

    Takes numbers and strings, among them ``"1e9"``, which YAML 1.1 hands over as a string. With ``positive``
    zero is refused too. Raises `UnitError` for anything else: other types, booleans, NaN, infinity, numbers that
    are negative or beyond `LARGEST`, and units of another dimension.
    """
    number = _number(value, dimension)
    if not math.isfinite(number):
        raise UnitError("not a finite number", value, EXAMPLES[dimension])
    if number > LARGEST:
        raise UnitError("out of range", value, f"at most {LARGEST:g}")
    if number < 0 or (positive and number == 0):
        rule = "must be positive" if positive else "must not be negative"
        raise UnitError(rule, value, EXAMPLES[dimension])
    return number


def _number(value: object, dimension: Dimension) -> float:
    if isinstance(value, str):
        return _from_text(value, dimension)
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # an integer beyond the floats
            return math.inf
    raise UnitError("not a quantity", value, EXAMPLES[dimension])


def _from_text(text: str, dimension: Dimension) -> float:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise UnitError("not a quantity", text, EXAMPLES[dimension])
    number, unit = float(match[1]), match[2].strip()
    if not unit:
        return number
    factor = UNITS[dimension].get(unit)
    if factor is None:
        raise UnitError(f"unknown unit {unit!r}", text, EXAMPLES[dimension], _nearest_unit(unit, dimension))
    # 3 / 1e6 is the double nearest to 3 us, 3 * 1e-6 is not.
    return number / round(1 / factor) if dimension == "seconds" and factor < 1 else number * factor


def _nearest_unit(unit: str, dimension: Dimension) -> str | None:
    """The unit that differs in case only, else the one spelled most alike."""
    units = UNITS[dimension]
    same_letters = [candidate for candidate in units if candidate.lower() == unit.lower()]
    if same_letters:
        # "gb/s" could be bits or bytes: name both.
        return " or ".join(same_letters[:2])
    close = difflib.get_close_matches(unit, list(units), n=1, cutoff=0.5)
    return close[0] if close else None


def parse_bytes(value: object, *, positive: bool = False) -> float:
    """A size in bytes: ``"80 GB"``, ``"512 MiB"``, 1e9. Raises `UnitError`."""
    return parse(value, "bytes", positive=positive)


def parse_bandwidth(value: object, *, positive: bool = True) -> float:
    """A rate in bytes per second: ``"25 GB/s"``, ``"200 Gb/s"`` (bits), 25e9. Raises `UnitError`."""
    return parse(value, "bytes_per_s", positive=positive)


def parse_seconds(value: object, *, positive: bool = False) -> float:
    """A time in seconds: ``"3 us"``, ``"1.5 ms"``, 3e-6. Raises `UnitError`."""
    return parse(value, "seconds", positive=positive)


def parse_flops(value: object, *, positive: bool = True) -> float:
    """A rate in FLOP/s: ``"312 TFLOP/s"``, 312e12. Raises `UnitError`."""
    return parse(value, "flops_per_s", positive=positive)


def format_bytes(size_bytes: float) -> str:
    """A size for people, three significant digits, decimal prefix: ``80.0 GB``."""
    return _scaled(size_bytes, "B")


def format_rate(rate: float, unit: Literal["B/s", "FLOP/s"] = "B/s") -> str:
    """A rate for people: ``25.0 GB/s``, ``312 TFLOP/s``."""
    return _scaled(rate, unit)


def format_seconds(time_s: float) -> str:
    """A time for people: ``3.00 us``, ``17.2 ms``, ``12.3 s``; seconds above a minute too."""
    if not math.isfinite(time_s) or time_s == 0:
        return f"{time_s:g} s"
    if round(abs(time_s), 9) >= 1000:
        return f"{time_s:.0f} s"
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")):
        # 0.9996 of a unit would print as 1.00e+03 of the next smaller one.
        if abs(time_s) >= 0.9995 * factor:
            return f"{_three_digits(time_s / factor)} {unit}"
    return f"{_three_digits(time_s / 1e-12)} ps"


def _scaled(value: float, unit: str) -> str:
    if not math.isfinite(value) or value == 0:
        return f"{value:g} {unit}"
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            return f"{_three_digits(value / factor)} {prefix}{unit}"
    return f"{_three_digits(value)} {unit}"


def _three_digits(value: float) -> str:
    """Three significant digits, or all of a larger number's integer digits."""
    digits_before_point = math.floor(math.log10(abs(float(f"{value:.3g}")))) + 1
    return f"{value:.{min(max(3 - digits_before_point, 0), 6)}f}"
