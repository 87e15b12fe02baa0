"""Names of commands and flags are a contract; typos name the nearest."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest

from pipesim import __version__
from pipesim.cli.arguments import _build

FLAGS = {
    "run": ["--set", "--json", "--out", "--gantt", "--trace", "--html", "--engine"],
    "compare": ["--set", "--schedules", "--json", "--plot"],
    "explain": ["--set", "--json"],
    "show": ["--set", "--format"],
    "validate": ["--set"],
    "export": ["--set", "--to"],
    "replay": ["--set", "--to", "--json", "--steps", "--op-time", "--gantt", "--trace", "--kineto"],
    "trace": ["--json", "--step", "--gantt", "--profile"],
    "calibrate": ["--set", "--device", "--repeats", "--out", "--gpu-out", "--json"],
    "schedules": ["--json"],
    "software": ["--json"],
    "hardware": ["--json"],
    "models": ["--json"],
    "accuracy": ["--source", "--set", "--rows", "--json", "--plot"],
    "init": ["--out"],
    "schema": [],
    "completion": [],
}


def test_commands_and_flags_are_the_promised_ones() -> None:
    _, commands = _build()
    options = {
        name: [flag for action in parser._actions for flag in action.option_strings if flag not in ("-h", "--help")]
        for name, parser in commands.items()
    }
    assert options == FLAGS


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"], []])
def test_help_and_version_are_on_standard_output(run: Any, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert (__version__ if "--version" in arguments else "usage: pipesim") in out


@pytest.mark.parametrize("command", FLAGS)
def test_every_command_explains_its_exit_codes(run: Any, command: str) -> None:
    assert "2 bad input" in " ".join(run(command, "--help")[1].split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu", "x"], "unknown command 'rnu'; allowed: run, compare, explain, show, validate"),
        (["rnu", "x"], "did you mean run?"),
        (["hardwar"], "did you mean hardware?"),
        (["--versoin"], "did you mean --version?"),
        (["run"], "the following arguments are required: CONFIG"),
        (["run", "x", "--jsno", "y"], "unexpected argument '--jsno'; did you mean --json?"),
        (["run", "x", "--jso=y"], "unexpected argument '--jso=y'; did you mean --json?"),
        (["run", "x", "y"], "unexpected argument 'y'"),
        (["run", "x", "--set"], "argument --set: expected one argument"),
        (["run", "x", "--engine", "fast"], "argument --engine: invalid choice: 'fast'"),
        (["run", "x", "--gantt", "a.bmp"], "'a.bmp' does not end in .png, .svg, .pdf"),
        (["run", "x", "--trace", "a.txt"], "'a.txt' does not end in .json, .json.gz"),
        (["show", "x", "--format", "cvs"], "argument --format: invalid choice: 'cvs'"),
        (["compare", "x", "--schedules", "a,,b"], "--schedules: an empty name in 'a,,b'"),
        (["compare"], "the following arguments are required: CONFIG"),
    ],
)
def test_a_wrong_command_line_is_bad_input(run: Any, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_help_imports_nothing_heavy() -> None:
    script = "import sys; from pipesim.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy = {"numpy", "pandas", "matplotlib", "pydantic", "yaml", "rich", "simpy", "numba"}
    assert heavy & set(done.stderr.split()) == set()


def test_help_is_instant() -> None:
    script = "from pipesim.cli import main; main(['--help'])"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    # 0.05 s on an idle machine, Python's own start included; the bound is for busy ones
    assert time.perf_counter() - start < 2.0


def test_validate_imports_neither_plots_nor_tables(tmp_path: Any) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("pipeline: {ranks: 4, microbatches: 8}\nschedule: gpipe\n")
    script = f"import sys; from pipesim.cli import main; main(['validate', {str(path)!r}]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {"pandas", "matplotlib", "rich", "simpy", "numba"} & set(done.stdout.split()) == set()
