"""`training.software`: settings of a named framework, wherever the config has none of its own."""

from __future__ import annotations

from typing import Any

import pytest

from pipesim import catalog
from pipesim.config import load_config
from pipesim.config.software import complete, taken_over
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


def sharded(cluster: Any, **parallelism: int) -> dict[str, Any]:
    """Weights in pieces, no software named."""
    return training(cluster, zero=3, global_batch=96) | {"parallelism": parallelism, "schedule": "1f1b"}


def test_weights_in_pieces_without_a_pipeline_are_those_of_fsdp(cluster: Any) -> None:
    """As if it had been named, which a note says, and the resolved form."""
    config = load_config(sharded(cluster, pipeline=1, data=96))
    named = load_config(sharded(cluster, pipeline=1, data=96), ["training.software=pytorch-fsdp"])
    assert (config.training.fsdp, config.training.attention_version) == (2, 2)
    assert config.resolved() == named.resolved() == load_config(config.resolved()).resolved()
    (note,) = config.notes()
    assert "taken to be PyTorch's FSDP (software: pytorch-fsdp)" in note
    assert named.notes() == load_config(config.resolved()).notes() == []


@pytest.mark.parametrize(
    ("parallelism", "change"),
    [
        ({"pipeline": 2, "data": 48}, "training.zero=3"),
        ({"pipeline": 1, "data": 96}, "schedule=breadth-first"),
        ({"pipeline": 1, "data": 96}, "schedule={name: breadth-first}"),
        ({"pipeline": 1, "data": 96}, "training.zero=2"),
        ({"pipeline": 1, "data": 96}, "training.software=megatron-core"),
        ({"pipeline": 1, "tensor": 8}, "training.zero=3"),
    ],
)
def test_other_configs_imply_no_software(cluster: Any, parallelism: Any, change: str) -> None:
    """Pipelines, breadth-first, whole weights, those that name one, those without replicas."""
    config = load_config(sharded(cluster, **parallelism), [change])
    assert (config.training.software, config.training.fsdp) == ("megatron-core", 0)
    assert not any("FSDP" in note for note in config.notes())


def test_context_parallel_replicas_share_weights_too(cluster: Any) -> None:
    """Which FSDP cuts over both."""
    config = load_config(sharded(cluster, pipeline=1, context=8, tensor=8))
    assert config.training.software == "pytorch-fsdp"


def test_what_a_config_says_goes_before_what_is_implied(cluster: Any) -> None:
    """As with software that is named."""
    config = load_config(sharded(cluster, pipeline=1, data=96), ["training.attention_version=3"])
    assert (config.training.attention_version, config.training.software) == (3, "pytorch-fsdp")


@pytest.mark.parametrize(
    ("given", "flash", "meant"),
    [
        ("selective", True, "per-op"),
        ("full", True, "full-early-stop"),
        ("none", True, "none"),
        ("pointwise", True, "pointwise"),
        ("selective", False, "selective"),
    ],
)
def test_recomputation_means_what_it_does_in_pytorch(cluster: Any, given: str, flash: bool, meant: str) -> None:
    """torchtitan's words, where no scores are kept, which Megatron's are about."""
    for software in ({}, {"software": "torchtitan"}):
        data = sharded(cluster, pipeline=1, data=96)
        data["training"] |= {"recompute": given, "flash_attention": flash, **software}
        config = load_config(data)
        assert config.training.recompute == meant
        assert load_config(config.resolved()).training.recompute == meant


def test_what_was_put_in_other_words_counts_as_filled_in(cluster: Any) -> None:
    """So that an error about it says where the word comes from."""
    data = training(cluster, software="torchtitan", recompute="selective", zero=3)
    found = taken_over(data, complete(data))
    assert "training.recompute" in found
    assert "training.zero" not in found


@pytest.mark.parametrize("wrong", [{"parallelism": "many"}, {"parallelism": {"pipeline": "one"}}, {"training": 3}])
def test_implied_software_hides_no_mistakes(cluster: Any, wrong: Any) -> None:
    """They are said as ever."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        load_config(sharded(cluster, pipeline=1, data=96) | wrong)


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
