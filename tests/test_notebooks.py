"""The notebooks run, and show what they show in the repository."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor

import pytest

import notebooks
import pipesim

MISSING = [name for name in ("nbformat", "nbclient", "ipykernel") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"notebooks need {', '.join(MISSING)}: pip install -e '.[test]'")

NAMES = {
    "five_minutes",
    "all_schedules",
    "breadth_first_vs_depth_first",
    "planning_gpt3_175b",
    "schedules_that_break_the_rules",
    "your_own_schedule",
}
LARGEST = 400_000
"""Bytes: a notebook is read on a web page, and every version of it stays in the repository."""

AT_A_TIME = 3
"""Kernels, mostly busy one after the other: each is idle while it starts."""

PUBLIC = {"pipesim", "numpy", "pandas", "matplotlib.pyplot"}


def committed(path):
    import nbformat

    return nbformat.read(path, as_version=4)


every = pytest.mark.parametrize("path", notebooks.paths(), ids=lambda path: path.stem)


def test_all_notebooks_are_there():
    """All that the documentation leads to."""
    assert {path.stem for path in notebooks.paths()} >= NAMES


@pytest.fixture(scope="module")
def executed(request):
    """The notebooks under test, each executed in a kernel of its own, a few of them at a time."""
    chosen = {item.callspec.params["path"] for item in request.session.items if "executed" in item.fixturenames}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {path: pool.submit(notebooks.execute, path) for path in chosen}


@every
def test_outputs_are_those_of_today(path, executed):
    """Without errors and warnings; `python tests/notebooks.py` renews what is shown."""
    shown, now = committed(path), executed[path].result()
    assert notebooks.warnings(now) == []
    for cell, old, new in zip(notebooks.code(now), notebooks.texts(shown), notebooks.texts(now), strict=True):
        assert old == new, cell.source
    assert len(notebooks.images(shown)) == len(notebooks.images(now)) > 0


@every
def test_only_public_names_are_used(path):
    """A reader can do everything that a notebook does."""
    notebook = committed(path)
    assert notebooks.imported(notebook) <= PUBLIC
    assert notebooks.used(notebook, "pipesim") <= set(pipesim.__all__)


@every
def test_notebooks_are_small_and_complete(path):
    """Every code cell has been run, in order, in a version of the notebook that opens quickly."""
    cells = notebooks.code(committed(path))
    assert path.stat().st_size < LARGEST
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


@every
def test_notebooks_read_as_documents(path):
    """A title first, and prose before every piece of code or two."""
    cells = committed(path).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    kinds = "".join(cell.cell_type[0] for cell in cells)
    assert "ccc" not in kinds
