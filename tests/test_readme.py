"""Everything that the README shows is run, and prints what the README says."""

from __future__ import annotations

import re

import documents
import pytest

README = documents.ROOT / "README.md"
TEXT = README.read_text() if README.exists() else ""


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """One working directory and one namespace for the whole document: later blocks use what earlier ones made."""
    directory = tmp_path_factory.mktemp("readme")
    documents.workplace(directory)
    return directory, {}


@pytest.mark.parametrize("shown", list(documents.blocks(TEXT)), ids=lambda s: s.code.strip().splitlines()[0][:60])
def test_what_is_shown_is_what_you_get(shown, here, monkeypatch):
    """Output equal to the output shown; `python tests/documents.py README.md` renews it."""
    directory, namespace = here
    monkeypatch.chdir(directory)
    printed = documents.run(shown, namespace)
    if printed is not None and shown.expected:
        assert documents.matches(shown.expected, printed), printed


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
