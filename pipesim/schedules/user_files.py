"""Schedules that live in a user's Python file: ``path/to/file.py:name``."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path

from pipesim.errors import PipesimError, ScheduleError

_SUFFIX = ".py"

_modules: dict[tuple[str, int, int], str] = {}
"""Files that have run, by path, time of change and size -> the name of their module."""


def is_reference(name: str) -> bool:
    """Whether ``name`` leads to a Python file; it may still lack the schedule in it."""
    return name.rpartition(":")[0].endswith(_SUFFIX) or name.endswith(_SUFFIX)


def parse(name: str) -> tuple[str, str]:
    """Path and schedule of ``path/to/file.py:schedule``.

    Raises:
        ScheduleError: it names no schedule in the file.
    """
    path, _, wanted = name.rpartition(":")
    if not path.endswith(_SUFFIX) or not wanted:
        path = path or name
        raise ScheduleError(f"{name!r} names a file but no schedule in it; write {path}:NAME")
    return path, wanted


def run(path: str) -> str:
    """Run a file once for every version of it, so that it registers its schedules; returns its module's name.

    Raises:
        ScheduleError: it cannot be read, or fails; the message names the line.
    """
    file = Path(path)
    try:
        stat = file.stat()
    except (OSError, ValueError) as error:
        raise ScheduleError(f"cannot read the schedule file {path}: {getattr(error, 'strerror', error)}") from error
    key = (str(file.resolve()), stat.st_mtime_ns, stat.st_size)
    if key not in _modules:
        _modules[key] = _execute(file)
    return _modules[key]


def _execute(file: Path) -> str:
    name = f"pipesim_user_schedule_{len(_modules)}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ScheduleError(f"{file} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ScheduleError(f"{file}{_line(file, error)}: {_message(error)}") from error
    return name


def _line(file: Path, error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f", line {lines[-1]}" if lines else ""


def _message(error: Exception) -> str:
    return str(error) if isinstance(error, PipesimError) else f"{type(error).__name__}: {error}"
