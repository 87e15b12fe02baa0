"""What holds for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from pipesim.schedules import registry

# How long an example takes says something about the machine, not about what is tested.
settings.register_profile("pipesim", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pipesim")


@pytest.fixture(autouse=True)
def forget_users_schedules() -> Iterator[None]:
    """Schedules that a test registers are gone after it; built-in ones that it loads stay loaded."""
    before = set(registry._registered)
    yield
    for name in set(registry._registered) - before - set(registry._FAMILIES):
        del registry._registered[name]
