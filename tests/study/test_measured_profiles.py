"""With the measured times of its stages, a 1F1B step takes what was measured."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import pipesim

FILE = Path(__file__).parents[1] / "data" / "vocabpar" / "profiles.csv"
ROWS = list(csv.DictReader(FILE.read_text().splitlines()))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["case"])
def test_a_profiled_step_takes_what_was_measured(row, tmp_path):
    """2 %: the profiles' own scatter; hops, optimizer and tied embedding are the catalog's.

    4B models (32 layers, hidden 3072) on 8 A100s of one node, 128 micro-batches.
    """
    stages = zip(row["forward_us"].split(), row["backward_us"].split(), strict=True)
    lines = ["stage,forward_us,backward_us", *(f"{s},{f},{b}" for s, (f, b) in enumerate(stages))]
    (tmp_path / "profile.csv").write_text("\n".join(lines))
    model = {"layers": 32, "hidden": 3072, "heads": 24, "vocab": int(row["vocab"]), "sequence": int(row["sequence"])}
    config = {
        "model": model,
        "cluster": {"gpu": "a100-sxm-80gb", "nodes": 1},
        "parallelism": {"pipeline": 8},
        "schedule": "1f1b",
        "training": {"global_batch": 128},
        "costs": {"profile": str(tmp_path / "profile.csv")},
        "simulation": {"engine": "compiled", "p2p": "blocking"},
    }
    step_s = pipesim.simulate(config).metrics["step_time_s"]
    assert step_s * 1e3 == pytest.approx(float(row["measured_ms"]), rel=0.02)
