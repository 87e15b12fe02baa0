"""Everything that the README shows is run, and prints what the README says."""

from __future__ import annotations

import re

import documents
import pytest

README = documents.ROOT / "README.md"
TEXT = README.read_text() if README.exists() else ""


BLOCKS = list(documents.blocks(TEXT))


class Reader:
    """Runs the document in one directory and one namespace, in whatever order tests come and in every process that has
    some of them: what an earlier block writes or defines is there.
    """

    def __init__(self) -> None:
        self.namespace: dict[str, object] = {}
        self.done: set[int] = set()

    def run(self, index: int) -> str | None:
        """What a block prints, after the files and programs before it."""
        for before in range(index):
            if BLOCKS[before].language != "console" and before not in self.done:
                self.run(before)
        self.done.add(index)
        return documents.run(BLOCKS[index], self.namespace)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A working directory, and who reads there."""
    directory = tmp_path_factory.mktemp("readme")
    documents.workplace(directory)
    return directory, Reader()


@pytest.mark.parametrize("index", range(len(BLOCKS)), ids=lambda i: BLOCKS[i].code.strip().splitlines()[0][:60])
def test_what_is_shown_is_what_you_get(index, here, monkeypatch):
    """Output equal to the output shown; `python tests/documents.py README.md` renews it."""
    directory, reader = here
    monkeypatch.chdir(directory)
    printed = reader.run(index)
    if printed is not None and BLOCKS[index].expected:
        assert documents.matches(BLOCKS[index].expected, printed), printed


def test_pictures_are_there():
    """Every image that the README shows is in the repository."""
    images = re.findall(r"!\[[^]]*\]\(([^)]+)\)", TEXT)
    assert images
    assert all((documents.ROOT / image).is_file() for image in images)


def test_the_two_commands_install_what_the_project_declares():
    """The commands at the top name extras and files that exist."""
    extras = re.findall(r'pip install -e "\.\[(\w+)\]"', TEXT)
    project = (documents.ROOT / "pyproject.toml").read_text()
    assert extras
    assert all(f"\n{extra} = [" in project for extra in extras)
