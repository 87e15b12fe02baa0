"""Saving a result leaves numbers, timeline and pictures in a directory."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from metrics_examples import CLUSTER_RUN
from timeline_frames import memory_of, run

from pipesim.errors import PipesimError
from pipesim.report.files import save

FRAME = run("1f1b", 4, 8)
RESULT = SimpleNamespace(
    metrics=CLUSTER_RUN, timeline=FRAME, memory=memory_of(FRAME), to_json=lambda: json.dumps(CLUSTER_RUN)
)


def test_all_files_are_written_and_named(tmp_path):
    """The returned paths are the files, in a directory made for them, and each can be read back."""
    files = save(RESULT, tmp_path / "a" / "b")
    names = ["result.json", "timeline.csv", "gantt.svg", "gantt.png", "memory.png"]
    assert [file.name for file in files] == names
    assert sorted(names) == sorted(file.name for file in (tmp_path / "a" / "b").iterdir())
    assert json.loads(files[0].read_text()) == CLUSTER_RUN
    pd.testing.assert_frame_equal(pd.read_csv(files[1]), FRAME, check_dtype=False)


def test_saving_twice_gives_the_same_bytes(tmp_path):
    """Pictures included."""
    first, second = (save(RESULT, tmp_path / name) for name in ("one", "two"))
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_a_file_in_the_way_is_an_error(tmp_path):
    """A directory cannot be made where a file is."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(PipesimError, match="cannot be made: File exists"):
        save(RESULT, Path(tmp_path / "taken"))
