"""Schedules by name. Each family is one file; importing this package is cheap, families load when asked for."""

from __future__ import annotations

from pipesim.schedules.base import Schedule, Setting, StepCosts, Theory
from pipesim.schedules.registry import create, get, in_file, names, register, schedule

__all__ = ["Schedule", "Setting", "StepCosts", "Theory", "create", "get", "in_file", "names", "register", "schedule"]
