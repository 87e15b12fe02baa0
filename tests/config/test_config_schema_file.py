"""The schema that editors use is the one of this version, and every config names it."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest

from pipesim.config import json_schema

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "pipesim" / "config" / "schema.json"


def test_the_file_is_the_schema() -> None:
    """`pipesim schema > pipesim/config/schema.json` renews it."""
    assert json.loads(SCHEMA.read_text()) == json_schema()


def test_it_is_installed_with_the_package() -> None:
    assert (
        json.loads(resources.files("pipesim.config").joinpath("schema.json").read_text())["title"] == "pipesim config"
    )


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_configs_name_it_for_editors(path: Path) -> None:
    """In the first line, relative to themselves."""
    first = path.read_text().splitlines()[0]
    marker, _, target = first.partition("=")
    assert marker == "# yaml-language-server: $schema"
    assert (path.parent / target).resolve() == SCHEMA
