"""Every config that ships is valid, and its plan fits."""

from __future__ import annotations

from pathlib import Path

import pytest

import pipesim

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_runs_and_fits(path):
    """On the engine that the config names."""
    result = pipesim.simulate(path)
    assert result.fits
    assert result.metrics["step_time_s"] > 0


def test_there_are_configs():
    """The main job's among them."""
    assert "gpt3_175b_a100" in {path.stem for path in CONFIGS}
