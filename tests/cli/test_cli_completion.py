"""Completion scripts are valid, and complete commands, flags and names."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BASH = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
ZSH = pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")


def completed(script: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    line = " ".join(f"'{word}'" for word in words)
    program = f"""
        source {script}
        COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMPREPLY=()
        $(complete -p pipesim | sed 's/.*-F \\([^ ]*\\).*/\\1/') pipesim '{words[-1]}' '{words[-2]}'
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.fixture
def script(run: Any, tmp_path: Path) -> Path:
    code, out, err = run("completion", "bash")
    assert (code, err) == (0, "")
    path = tmp_path / "pipesim.bash"
    path.write_text(out)
    return path


@BASH
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pipesim", "ex"], ["explain", "export"]),
        (["pipesim", "run", "--ga"], ["--gantt"]),
        (["pipesim", "init", "llama-3-4"], ["llama-3-405b"]),
        (["pipesim", "init", "llama-3-405b", "h20"], ["h200-sxm-141gb", "h20-sxm-96gb"]),
        (["pipesim", "completion", "z"], ["zsh"]),
    ],
)
def test_bash_offers_what_there_is(script: Path, words: list[str], expected: list[str]) -> None:
    assert completed(script, *words) == expected


@ZSH
def test_the_zsh_script_parses(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "_pipesim"
    path.write_text(run("completion", "zsh")[1])
    subprocess.run(["zsh", "-n", path], check=True)


def test_zsh_gets_a_script_of_its_own(run: Any) -> None:
    code, out, _ = run("completion", "zsh")
    assert code == 0
    assert out.startswith("#compdef pipesim")


def test_other_shells_are_bad_input(run: Any) -> None:
    code, _, err = run("completion", "fish")
    assert code == 2
    assert "invalid choice: 'fish'" in err
