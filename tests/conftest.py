"""What holds for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine, not about what is tested.
settings.register_profile("pipesim", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pipesim")
