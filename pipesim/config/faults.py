"""Pydantic's errors in our words: path as written in YAML, what was found, what is allowed, what was meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from pipesim.config.reading import describe
from pipesim.errors import Problem, nearest


def problems_of(error: ValidationError) -> list[Problem]:
    """One Problem per pydantic error, in the order of the config."""
    return [_problem(detail) for detail in error.errors(include_url=False)]


def yaml_path(location: tuple[str | int, ...]) -> str:
    """``("costs", "forward", 2)`` as ``costs.forward[2]``."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _problem(detail: Mapping[str, Any]) -> Problem:
    path, kind, value = yaml_path(detail["loc"]), detail["type"], detail["input"]
    context = detail.get("ctx", {})
    if kind == "fault":
        return _fault(path, value, context)
    message, allowed, near = _explain(kind, value, context, detail["msg"])
    return Problem(path, message, describe(value), allowed, near)


def _fault(path: str, value: Any, context: Mapping[str, Any]) -> Problem:
    message = context["message"]
    found = None if message == "is missing" else describe(value)
    return Problem(path, message, found, context.get("allowed"), context.get("nearest"))


_Explanation = tuple[str, str | None, str | None]

_WRONG_TYPE = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
}

_BOUNDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than_equal": lambda c: f"at least {c['ge']}",
    "greater_than": lambda c: f"more than {c['gt']}",
    "less_than_equal": lambda c: f"at most {c['le']}",
    "less_than": lambda c: f"less than {c['lt']}",
}


def _explain(kind: str, value: Any, context: Mapping[str, Any], default: str) -> _Explanation:
    if kind in ("int_type", "int_from_float"):
        return "not a whole number", "a whole number", _whole_number_meant(value)
    if kind in _WRONG_TYPE:
        return f"not {_WRONG_TYPE[kind]}", _WRONG_TYPE[kind], _meant(kind, value)
    if kind in _BOUNDS:
        return "out of range", _BOUNDS[kind](context), None
    if kind == "literal_error":
        choices = str(context["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        return "unknown value", ", ".join(choices), nearest(str(value), choices)
    return default.lower(), None, None


def _whole_number_meant(value: Any) -> str | None:
    """The number that ``"8"``, ``8.0`` or ``1e3`` stands for, when it is whole."""
    try:
        number = float(value) if isinstance(value, str | float) else None
    except ValueError:
        return None
    return str(int(number)) if number is not None and number.is_integer() and abs(number) < 1e15 else None


def _meant(kind: str, value: Any) -> str | None:
    words = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}
    if kind == "bool_type" and isinstance(value, str):
        return words.get(value.lower())
    if kind == "string_type" and isinstance(value, int | float) and not isinstance(value, bool):
        return f"'{value}'"
    return None
