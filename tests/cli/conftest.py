"""A config on disk, and a simulator that answers at once, so that only the command line is tested."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from pipesim import api
from pipesim.cli import main

METRICS = {
    "schema_version": 1,
    "config": {"schedule": {"name": "gpipe"}},
    "step_time_s": 2.0,
    "bubble_fraction": 0.25,
    "bubble_overhead": 0.5,
    "span_bubble_fraction": 0.25,
    "memory": {"peak_bytes": 8.0, "capacity_bytes": None, "fits": None},
    "throughput": {"tokens_per_s": None, "mfu": None},
    "ranks": [{"peak_in_flight": 8.0}],
    "asynchronous": None,
}


class FakeFigure:
    def savefig(self, file: BinaryIO, **_: Any) -> None:
        file.write(b"figure")


@dataclass
class FakeAxes:
    figure: FakeFigure = field(default_factory=FakeFigure)


@dataclass
class FakeResult:
    metrics: dict[str, Any]

    @property
    def fits(self) -> bool:
        return self.metrics["memory"]["fits"] is not False

    def summary(self) -> str:
        return "step time 2 s"

    def to_json(self) -> str:
        return json.dumps(self.metrics) + "\n"

    def gantt(self, ax: Any = None) -> FakeAxes:
        return FakeAxes()

    def save(self, directory: str) -> list[Path]:
        Path(directory).mkdir(exist_ok=True)
        file = Path(directory) / "result.json"
        file.write_text(self.to_json())
        return [file]

    def write_html(self, path: str) -> None:
        Path(path).write_text("<!doctype html>")

    def write_trace(self, path: str) -> None:
        Path(path).write_text("{}")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("pipeline: {ranks: 4, microbatches: 8}\nschedule: gpipe\n")
    return path


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replaces the simulator; the list collects the configs it was called with."""
    calls: list[Any] = []

    def simulate(config: Any, *, engine: str | None = None) -> FakeResult:
        calls.append(config)
        metrics = {**METRICS, "config": config.resolved()}
        return FakeResult(metrics)

    monkeypatch.setattr(api, "simulate", simulate)
    return calls


@pytest.fixture
def does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulator whose plans need more memory than there is."""
    memory = {"peak_bytes": 9e10, "capacity_bytes": 8e10, "fits": False}

    def simulate(config: Any, *, engine: str | None = None) -> FakeResult:
        return FakeResult({**METRICS, "config": config.resolved(), "memory": memory})

    monkeypatch.setattr(api, "simulate", simulate)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line: exit code, standard output, standard error."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call
