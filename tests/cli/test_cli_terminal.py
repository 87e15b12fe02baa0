"""Colours and progress bars are for terminals; pipes get plain text."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What a terminal receives from a command."""
    main, end = pty.openpty()
    command = [sys.executable, "-m", "pipesim", *arguments]
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "PYTHONPATH": os.getcwd(), **environment}
    with subprocess.Popen(command, stdout=end, stderr=end, stdin=end, env=env) as process:
        os.close(end)
        received = b""
        while True:
            try:
                part = os.read(main, 4096)
            except OSError:  # how Linux says that the other end is closed
                break
            if not part:
                break
            received += part
    os.close(main)
    assert process.returncode == 0, received
    return received.decode()


def test_the_summary_has_emphasis_on_a_terminal(config: Path) -> None:
    assert "\x1b[1m" in on_a_terminal("run", str(config))


def test_no_color_is_respected(config: Path) -> None:
    """https://no-color.org: no colours, though bold is none."""
    assert "\x1b[36m" not in on_a_terminal("run", str(config), NO_COLOR="1")
    assert "\x1b[36m" in on_a_terminal("run", str(config))


def test_comparing_shows_a_bar(config: Path) -> None:
    assert "simulating" in on_a_terminal("compare", str(config), "--schedules", "gpipe,1f1b")


def test_pipes_get_neither(config: Path) -> None:
    command = [sys.executable, "-m", "pipesim", "compare", str(config), "--schedules", "gpipe,1f1b"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
