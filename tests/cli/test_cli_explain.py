"""What `pipesim explain` prints where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def test_the_explanation_is_on_standard_output(run: Any, config: Path) -> None:
    code, out, err = run("explain", config)
    assert (code, err) == (0, "")
    assert "Longest waits of each kind" in out


def test_json_is_alone_on_standard_output(run: Any, config: Path) -> None:
    code, out, err = run("explain", config, "--set", "pipeline.microbatches=5", "--json", "-")
    assert (code, json.loads(out)["config"]["pipeline"]["microbatches"]) == (0, 5)
    assert "Longest waits" in err


def test_a_plan_that_does_not_fit_is_explained_and_exits_with_1(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "model: gpt3-175b\ncluster: {gpu: a100-sxm-80gb, nodes: 1}\nparallelism: {pipeline: 8}\n"
        "schedule: 1f1b\ntraining: {global_batch: 8}\n"
    )
    code, out, _ = run("explain", path)
    assert code == 1
    assert "last stage" in out
