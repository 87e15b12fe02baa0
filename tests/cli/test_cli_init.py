"""`pipesim init` writes a config that the other commands take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CLUSTER = "4xa100-sxm-40gb"


def test_what_it_writes_validates_and_runs(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "starter.yaml"
    assert run("init", "gpt2-1.3b", CLUSTER, "--out", path) == (0, "", "")
    assert run("validate", path)[0] == 0
    assert run("run", path)[0] == 0


def test_without_a_file_it_is_on_standard_output(run: Any) -> None:
    code, out, err = run("init", "gpt2-1.3b", CLUSTER)
    assert (code, err) == (0, "")
    assert out.startswith("# yaml-language-server: $schema=")


def test_it_does_not_overwrite(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("mine")
    code, out, err = run("init", "gpt2-1.3b", CLUSTER, "--out", path)
    assert (code, out, path.read_text()) == (2, "", "mine")
    assert "is already there" in err


def test_a_model_file_is_named_as_the_config_sees_it(run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    fields = {
        "model_type": "llama",
        "num_hidden_layers": 8,
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "vocab_size": 32000,
        "max_position_embeddings": 1024,
    }
    (tmp_path / "models").mkdir()
    (tmp_path / "configs").mkdir()
    (tmp_path / "models" / "small.json").write_text(json.dumps(fields))
    monkeypatch.chdir(tmp_path)
    assert run("init", "models/small.json", CLUSTER, "--out", "configs/small.yaml")[0] == 0
    assert "model: ../models/small.json" in Path("configs/small.yaml").read_text()
    assert run("validate", "configs/small.yaml")[0] == 0


def test_bad_names_exit_with_2(run: Any) -> None:
    code, out, err = run("init", "gpt2-1.3b", "4xa100-sxm-40g")
    assert (code, out) == (2, "")
    assert "did you mean a100-sxm-40gb?" in err
