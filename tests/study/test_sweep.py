"""Every combination of settings becomes a row of a tidy table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pipesim
from pipesim.errors import ConfigError

CONFIG: dict[str, Any] = {
    "pipeline": {"ranks": 4, "microbatches": 8},
    "costs": {"forward": 1, "input_grad": 1, "weight_grad": 1},
    "schedule": "1f1b",
}


def test_every_combination_is_simulated() -> None:
    """Columns are the paths; bubble overhead of GPipe and 1F1B is (P - 1) / M."""
    axes = {"schedule": ["gpipe", "1f1b"], "pipeline.microbatches": np.array([4, 8, 12])}
    frame = pipesim.sweep(CONFIG, axes).frame
    assert frame["schedule"].tolist() == ["gpipe"] * 3 + ["1f1b"] * 3
    assert frame["pipeline.microbatches"].tolist() == [4, 8, 12] * 2
    assert frame["bubble_overhead"].tolist() == pytest.approx([3 / 4, 3 / 8, 3 / 12] * 2)


def test_sections_are_values_and_labels_name_them() -> None:
    """Without labels, a section is named by what is in it."""
    two = {"name": "interleaved-1f1b", "chunks": 2}
    assert pipesim.sweep(CONFIG, {"schedule": [two]}).frame["schedule"].tolist() == ["interleaved-1f1b (chunks 2)"]
    named = pipesim.sweep(CONFIG, {"schedule": {"looped": two}, "costs": {"fast": {"forward": 1}}}).frame
    assert named[["schedule", "costs"]].values.tolist() == [["looped", "fast"]]


def test_overrides_hold_for_all_combinations() -> None:
    """GPipe with four micro-batches instead of eight: 3 (M + P - 1)."""
    overrides = ["pipeline.microbatches=4", "schedule=gpipe"]
    frame = pipesim.sweep(CONFIG, {"pipeline.ranks": [2, 4]}, overrides).frame
    assert frame["step_time_s"].tolist() == [15.0, 21.0]


def test_a_combination_that_cannot_run_says_why() -> None:
    """Chimera needs an even number of ranks; the others are simulated."""
    frame = pipesim.sweep(CONFIG | {"schedule": "chimera"}, {"pipeline.ranks": [3, 4]}).frame
    assert frame["step_time_s"].isna().tolist() == [True, False]
    assert "even" in frame["error"].iloc[0]


def test_when_nothing_can_run_the_reason_is_raised() -> None:
    """A misspelt path is the same mistake in every row."""
    with pytest.raises(ConfigError, match="did you mean ranks"):
        pipesim.sweep(CONFIG, {"pipeline.rank": [2, 4]})
