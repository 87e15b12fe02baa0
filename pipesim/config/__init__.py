"""Configs: YAML in, checked and frozen sections out, every problem reported at once."""

from __future__ import annotations

from pipesim.config.document import AbstractConfig, ClusterConfig, Config
from pipesim.config.load import load_config, load_with_schedule
from pipesim.config.schedule import Option, ScheduleChoice, schedule_options
from pipesim.config.schema import json_schema

__all__ = [
    "AbstractConfig", "ClusterConfig", "Config", "Option", "ScheduleChoice",
    "json_schema", "load_config", "load_with_schedule", "schedule_options",
]  # fmt: skip
