"""`training.software`: settings of a named framework, wherever the config has none of its own."""

from __future__ import annotations

from typing import Any

import pytest

from pipesim import catalog
from pipesim.config import load_config
from pipesim.errors import ConfigError

NAMES = catalog.names("software")


def training(cluster: Any, **changes: Any) -> dict[str, Any]:
    return {**cluster, "training": {"global_batch": 48, **changes}}


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_of_the_catalog_is_one_that_configs_have(cluster: Any, name: str) -> None:
    """And the resolved form has each, with the name."""
    resolved = load_config(training(cluster, software=name)).resolved()
    assert resolved["training"]["software"] == name
    entry = catalog.load("software")[name]
    for section in ("training", "simulation"):
        settings = dict(entry.get(section, {}))
        assert {key: resolved[section][key] for key in settings} == settings


def test_what_the_config_says_itself_goes_first(cluster: Any) -> None:
    """In either section, and on the command line."""
    data = training(cluster, software="megatron-lm-2021", flash_attention=True) | {"simulation": {"p2p": "overlapped"}}
    config = load_config(data, ["training.gradients=fp32"])
    assert (config.training.flash_attention, config.training.gradients) == (True, "fp32")
    assert (config.training.data_overlap, config.simulation.p2p) == ("none", "overlapped")


def test_the_usual_software_is_what_options_are_by_default(cluster: Any) -> None:
    """Naming it changes nothing."""
    assert (
        load_config(training(cluster, software="megatron-core")).resolved() == load_config(training(cluster)).resolved()
    )


def test_it_can_be_chosen_on_the_command_line(cluster: Any) -> None:
    """As any other setting."""
    config = load_config(training(cluster), ["training.software=nemo"])
    assert (config.training.zero, config.training.tensor_overlap) == (1, "full")


def test_a_resolved_config_is_read_back_as_it_was(cluster: Any) -> None:
    """Software included."""
    resolved = load_config(training(cluster, software="torchtitan")).resolved()
    assert load_config(resolved).resolved() == resolved


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("nemoo", "unknown software; found 'nemoo'; allowed: megatron-core.*did you mean nemo"),
        (2021, "training.software: not text"),
        (["nemo"], "training.software: not text"),
    ],
)
def test_what_is_not_software_is_said(cluster: Any, wrong: Any, message: str) -> None:
    """With the nearest name."""
    with pytest.raises(ConfigError, match=message):
        load_config(training(cluster, software=wrong))


@pytest.mark.parametrize("section", ["training", "simulation"])
def test_sections_that_are_no_mappings_are_said_as_ever(cluster: Any, section: str) -> None:
    """The settings of software do not hide them."""
    data = training(cluster, software="nemo") | {section: "fast"}
    with pytest.raises(ConfigError, match=f"{section}: "):
        load_config(data)


@pytest.mark.parametrize(
    ("changes", "schedule", "message"),
    [
        ({"software": "torchtitan"}, "pipedream", r"training.zero: .*whole weights \(a default of training.software\)"),
        ({"software": "torchtitan", "zero": 3}, "pipedream", "training.zero: .*whole weights; found"),
        (
            {"software": "megatron-lm-2021"},
            {"name": "layerpipe2", "engines": 2},
            r"simulation.p2p: .*engines \(a default of training.software\)",
        ),
    ],
)
def test_a_problem_of_what_it_sets_says_so(cluster: Any, changes: dict[str, Any], schedule: Any, message: str) -> None:
    """Nobody finds in the config what it did not say itself."""
    data = training(cluster, **changes) | {"schedule": schedule, "parallelism": {"pipeline": 12, "data": 8}}
    with pytest.raises(ConfigError, match=message):
        load_config(data)
