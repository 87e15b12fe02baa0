"""``pipesim accuracy``: what it prints and writes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipesim.study import accuracy as study
from pipesim.study import measurements


@pytest.fixture
def three_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first three runs of every source, so that the command is quick."""
    every = measurements.measurements
    monkeypatch.setattr(study, "measurements", lambda names=None: every(names)[:3])


def test_a_summary_per_table_and_family_is_printed(run: Any, three_rows: None) -> None:
    code, out, err = run("accuracy", "--source", "narayanan-2021")
    assert (code, err) == (0, "")
    assert out.startswith("source ")
    lines = [line.split("  ") for line in out.splitlines()]
    found = [[cell.strip() for cell in line if cell.strip()][:4] for line in lines]
    assert ["narayanan-2021 table-1", "time", "3", "3"] in found
    assert ["dense Megatron, A100", "time", "3", "3"] in found


def test_rows_are_listed_on_request(run: Any, three_rows: None) -> None:
    _, out, _ = run("accuracy", "--source", "narayanan-2021", "--rows")
    assert "gpt-3.6b nodes=8 T2 D32 1f1b b16 B512" in out
    assert "138.0 TFLOP/s" in out


def test_json_has_groups_families_and_rows(run: Any, three_rows: None) -> None:
    code, out, _ = run("accuracy", "--source", "korthikanti-2022", "--json", "-")
    written = json.loads(out)
    assert (code, written["schema_version"]) == (0, 1)
    assert [len(written[key]) for key in ("groups", "families", "rows")] == [1, 2, 3]
    assert {"source", "plan", "measured", "predicted", "error", "provenance"} <= set(written["rows"][0])


def test_a_plot_is_drawn(run: Any, three_rows: None, tmp_path: Any) -> None:
    assert run("accuracy", "--source", "nemo-2024", "--plot", tmp_path / "a.png")[0] == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_every_config_can_be_changed(run: Any, three_rows: None) -> None:
    """What follows from an option, on all runs of a source; what configs do not take is bad input."""
    plain, changed = (
        json.loads(run("accuracy", "--source", "narayanan-2021", *more, "--json", "-")[1])["rows"]
        for more in ([], ["--set", "training.flash_attention=true"])
    )
    assert all(new["error"] < old["error"] for new, old in zip(changed, plain, strict=True))
    code, _, err = run("accuracy", "--source", "narayanan-2021", "--set", "training.flash=true")
    assert code == 2
    assert "did you mean flash_attention?" in err


def test_an_unknown_source_is_bad_input(run: Any) -> None:
    code, _, err = run("accuracy", "--source", "nemo")
    assert code == 2
    assert "did you mean nemo-2024?" in err
