"""The command line as a process: what happens when nobody reads, nothing can be written, or text is ASCII only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PIPESIM = [sys.executable, "-m", "pipesim"]


def call(arguments: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*PIPESIM, *arguments], stderr=subprocess.PIPE, text=True, check=False, **options)  # type: ignore[call-overload]
    assert "Traceback" not in done.stderr
    return done


def test_a_reader_that_leaves_is_no_error_message() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = call(["schema"], stdout=write_end)
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_explained() -> None:
    with open("/dev/full", "w") as full:
        done = call(["hardware"], stdout=full)
    assert done.returncode == 2
    assert done.stderr == "pipesim: No space left on device\n"
    done = call(["hardware", "--json", "/dev/full"], stdout=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr == "pipesim: cannot write '/dev/full': No space left on device\n"


def test_a_closed_standard_output_is_no_traceback() -> None:
    command = " ".join([*PIPESIM, "models", ">&-"])
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 2)


def test_an_ascii_terminal_gets_question_marks() -> None:
    done = call(["schedules"], stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0


def test_a_config_name_that_is_not_text_is_only_a_missing_file() -> None:
    done = subprocess.run([*PIPESIM, "validate", b"\xff\xfe.yaml"], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"no such file" in done.stderr


def test_standard_input_can_be_the_config() -> None:
    text = "pipeline: {ranks: 4, microbatches: 8}\nschedule: gpipe\n"
    done = call(["validate", "/dev/stdin"], stdout=subprocess.PIPE, input=text)
    assert (done.returncode, done.stdout.split(" ")[1]) == (0, "ok")


def test_interrupting_is_quiet(tmp_path: Path) -> None:
    fifo = tmp_path / "never-written.yaml"
    os.mkfifo(fifo)
    child = subprocess.Popen([*PIPESIM, "validate", str(fifo)], stderr=subprocess.PIPE, text=True)
    with open(fifo, "w"):  # returns when the child has opened its end, so it is waiting for us
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (130, "pipesim: interrupted\n")


def test_a_reader_who_leaves_early_loses_no_file(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("pipeline: {ranks: 64, microbatches: 64}\nschedule: gpipe\n")
    command = f"{sys.executable} -m pipesim run {config} --json {tmp_path / 'a.json'} | head -c 1"
    subprocess.run(["bash", "-c", command], check=False, capture_output=True, cwd=Path(__file__).parents[2])
    assert json.loads((tmp_path / "a.json").read_text())["schema_version"] == 1
