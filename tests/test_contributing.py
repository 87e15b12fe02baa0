"""The code blocks of CONTRIBUTING.md run, and print what the page shows."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from pipesim.errors import ScheduleError
from pipesim.schedules import Setting, create

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL)


def run_page() -> list[tuple[str, str]]:
    """Run the page from top to bottom in one session; (printed, shown) for every block with output."""
    namespace: dict[str, object] = {"__name__": "contributing"}
    pairs, printed = [], ""
    for language, code in BLOCKS:
        if language == "text":
            pairs.append((printed, code))
        elif file := re.match(r"# (\S+\.(py|yaml))\n", code):
            Path(file[1]).write_text(code)
        elif language == "python":
            printed = run(code, namespace)
    return pairs


def run(code: str, namespace: dict[str, object]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, str(PAGE), "exec", dont_inherit=True), namespace)
    return out.getvalue()


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_newcomer_gets_what_the_page_shows(in_empty_folder):
    """Both schedules of the page can be pasted and run, and print what is shown."""
    pairs = run_page()
    assert len(pairs) == 3
    for printed, shown in pairs:
        assert printed == shown


def test_the_ten_line_file_has_ten_lines():
    """The schedule of the first section is as short as promised, not counting blank lines and the file's name."""
    first = next(code for language, code in BLOCKS if language == "python")
    assert len([line for line in first.splitlines() if line.strip()]) - 1 == 10


def test_the_example_class_names_numbers_that_do(in_empty_folder):
    """The page asks that errors name numbers that would do; its own example keeps to that."""
    run_page()
    batched = create("batched", batch=4)
    with pytest.raises(ScheduleError, match="use 4 or 8 micro-batches"):
        batched.check(2, 6)
    assert batched.program(Setting(2, 4)).microbatches == 4
    assert batched.program(Setting(2, 8)).microbatches == 8
