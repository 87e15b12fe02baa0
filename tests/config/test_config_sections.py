"""One bad value at a time: the exact path, what was found, what is allowed, what was meant."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from pipesim import catalog
from pipesim.config import AbstractConfig, ClusterConfig, load_config
from pipesim.config import cluster as sections
from pipesim.config.cluster import Simulation
from pipesim.errors import Problem
from pipesim.workload import training


def with_value(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The config with one value replaced, or with ``...`` taken out."""
    *parents, last = path.split(".")
    node = config
    for parent in parents:
        node = node.setdefault(parent, {})
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return config


WHOLE = "a whole number"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("pipeline.ranks", ..., Problem("pipeline.ranks", "is missing", allowed="a whole number of at least 1")),
        ("pipeline.ranks", "4", Problem("pipeline.ranks", "not a whole number", "'4'", WHOLE, "4")),
        ("pipeline.ranks", "1e3", Problem("pipeline.ranks", "not a whole number", "'1e3'", WHOLE, "1000")),
        ("pipeline.ranks", "four", Problem("pipeline.ranks", "not a whole number", "'four'", WHOLE)),
        ("pipeline.ranks", 4.0, Problem("pipeline.ranks", "not a whole number", "4.0", WHOLE, "4")),
        ("pipeline.ranks", 4.5, Problem("pipeline.ranks", "not a whole number", "4.5", WHOLE)),
        ("pipeline.ranks", True, Problem("pipeline.ranks", "not a whole number", "true", WHOLE)),
        ("pipeline.ranks", None, Problem("pipeline.ranks", "not a whole number", "nothing", WHOLE)),
        ("pipeline.ranks", [4], Problem("pipeline.ranks", "not a whole number", "a list of 1", WHOLE)),
        ("pipeline.ranks", 0, Problem("pipeline.ranks", "out of range", "0", "at least 1")),
        ("pipeline.ranks", -4, Problem("pipeline.ranks", "out of range", "-4", "at least 1")),
        ("pipeline.ranks", 10**6, Problem("pipeline.ranks", "out of range", "1000000", "at most 10000")),
        ("pipeline.ranks", float("nan"), Problem("pipeline.ranks", "not a whole number", ".nan", WHOLE)),
        ("pipeline.ranks", float("inf"), Problem("pipeline.ranks", "not a whole number", ".inf", WHOLE)),
        ("pipeline", 4, Problem("pipeline", "not a mapping", "4", "a mapping")),
        ("pipeline", None, Problem("pipeline", "not a mapping", "nothing", "a mapping")),
        ("pipeline.rank", 3, Problem("pipeline.rank", "unknown key", "3", "ranks, microbatches", "ranks")),
        ("memory.weight_grad_share", 1.5, Problem("memory.weight_grad_share", "out of range", "1.5", "at most 1.0")),
        ("memory.weight_grad_share", "0.5", Problem("memory.weight_grad_share", "not a number", "'0.5'", "a number")),
        (
            "memory.weight_grad_share",
            float("nan"),
            Problem("memory.weight_grad_share", "not a finite number", ".nan", "a finite number"),
        ),
    ],
)
def test_wrong_counts_and_shares(abstract: Any, problems: Any, path: str, value: Any, expected: Problem) -> None:
    assert problems(with_value(abstract, path, value)) == [expected]


SECONDS = '"3 us", "1.5 ms" or a number of seconds'


@pytest.mark.parametrize(
    ("value", "message", "nearest"),
    [
        (-1, "must not be negative", None),
        (float("nan"), "not a finite number", None),
        (float("inf"), "not a finite number", None),
        (True, "not a quantity", None),
        ("fast", "not a quantity", None),
        ("-3 us", "must not be negative", None),
        ("3 uS", "unknown unit 'uS'", "us"),
        ("3 GB", "unknown unit 'GB'", None),
        ({"a": 1}, "not a quantity", None),
        (None, "not a quantity", None),
        pytest.param(10**400, "not a finite number", None, id="10**400"),
    ],
)
def test_wrong_times(abstract: Any, problems: Any, value: Any, message: str, nearest: str | None) -> None:
    (problem,) = problems(with_value(abstract, "costs.p2p", value))
    assert (problem.path, problem.message, problem.nearest) == ("costs.p2p", message, nearest)
    (problem,) = problems(with_value(abstract | {"costs": {}}, "costs.forward", [1] * 7 + [value]))
    assert (problem.path, problem.message) == ("costs.forward[7]", message)


@pytest.mark.parametrize(("text", "seconds"), [("1e9", 1e9), ("3 us", 3e-6), ("1.5 ms", 1.5e-3), (2, 2.0), ("2", 2.0)])
def test_times_may_be_text_with_a_unit(abstract: Any, text: Any, seconds: float) -> None:
    config = load_config(with_value(abstract, "costs.p2p", text))
    assert isinstance(config, AbstractConfig)
    assert config.costs.p2p == seconds


def test_an_empty_list_of_costs(abstract: Any, problems: Any) -> None:
    allowed = "one entry per stage, or a single number"
    found = problems(with_value(abstract, "costs.forward", []))
    assert found == [Problem("costs.forward", "an empty list", "a list of 0", allowed)]


GPUS = ", ".join(catalog.names("gpus"))


@pytest.mark.parametrize(
    ("path", "value", "where", "message", "nearest"),
    [
        ("model", "gpt3-175", "model", "not in the catalog of models", "gpt3-175b"),
        ("model", 7, "model", "neither a name nor a mapping", None),
        ("model", ..., "model", "is missing", None),
        ("model", "missing.json", "model", "cannot be read: No such file or directory", None),
        ("model", {"layers": 4}, "model.hidden", "is missing", None),
        ("model", {"base": "gpt3-175b", "sequnce": 9}, "model.sequnce", "unknown field", "sequence"),
        ("model", {"base": "gpt3-175b", "layers": True}, "model.layers", "is not usable", None),
        ("model", {"base": "gpt3-175b", "layers": 10**6}, "model.layers", "too large", None),
        ("model", {"base": "gpt3-175b", "hidden": 10**12}, "model.hidden", "too large", None),
        ("model", {"base": "gpt4"}, "model.base", "not in the catalog of models", "gpt2-64"),
        ("model", {"base": 4}, "model.base", "neither a name nor a path", None),
        ("cluster.gpu", "a100-sxm-80g", "cluster.gpu", "unknown GPU", "a100-sxm-80gb"),
        ("cluster.gpu", ["x"], "cluster.gpu", "neither a name nor a mapping", None),
        ("cluster.gpu", {"memory": "64 GB"}, "cluster.gpu.base", "is missing: the GPU to start from", None),
        ("cluster.gpu", {"base": "a100-sxm-80gb", "memry": 3}, "cluster.gpu.memry", "unknown key", "memory"),
        ("cluster.gpu", {"base": "a100-sxm-80gb", "memory": "64 gB"}, "cluster.gpu.memory", "unknown unit 'gB'", "GB"),
        ("cluster.gpu", {"base": "a100-sxm-80gb", "memory": -1}, "cluster.gpu.memory", "must be positive", None),
        ("cluster.nodes", "12", "cluster.nodes", "not a whole number", "12"),
        ("cluster.nodes", ..., "cluster.nodes", "is missing", None),
        ("cluster.inter_node", "infiniband-hdr200", "cluster.inter_node", "unknown link", "infiniband-hdr"),
        ("cluster.inter_node", {"bandwidth": "fast"}, "cluster.inter_node.bandwidth", "not a quantity", None),
        ("cluster.inter_node", {"latency": "1 us"}, "cluster.inter_node.bandwidth", "is missing", None),
        ("parallelism.tensr", 8, "parallelism.tensr", "unknown key", "tensor"),
        ("parallelism.order", "tp-dp", "parallelism.order", "not an order of the dimensions", "tp-cp-dp-pp"),
        ("parallelism.order", 3, "parallelism.order", "not text", "'3'"),
        ("training.precision", "bf-16", "training.precision", "unknown value", "bf16"),
        ("training.recompute", True, "training.recompute", "unknown value", None),
        ("training.zero", 4, "training.zero", "out of range", None),
        ("training.zero", True, "training.zero", "not a whole number", None),
        ("training.attention_version", True, "training.attention_version", "not a whole number", None),
        ("training.attention_version", 2.0, "training.attention_version", "not a whole number", "2"),
        ("training.attention_version", 4, "training.attention_version", "out of range", None),
        ("training.fsdp", False, "training.fsdp", "not a whole number", None),
        ("training.fsdp", 3, "training.fsdp", "out of range", None),
        ("training.flash_attention", "yes", "training.flash_attention", "not true or false", "true"),
        ("training.flash_attention", 1, "training.flash_attention", "not true or false", None),
        ("training.partition", [8, -8], "training.partition[1]", "out of range", None),
        ("training.partition", 8, "training.partition", "not a list", None),
        ("training.optimizer", "adamw", "training.optimizer", "unknown value", "adam"),
        ("simulation.engine", "fast", "simulation.engine", "unknown value", None),
        ("simulation.network", "fiffo", "simulation.network", "unknown value", "fifo"),
        ("simulation.seed", -1, "simulation.seed", "out of range", None),
        ("costs", {"profile": "missing.csv"}, "costs.profile", "cannot be read: No such file or directory", None),
        ("costs", {"profile": "."}, "costs.profile", "cannot be read: Is a directory", None),
        ("costs", {"profile": "a\0b"}, "costs.profile", "cannot be read: embedded null byte", None),
        ("costs", {"profile": "x" * 5000}, "costs.profile", "cannot be read: File name too long", None),
        ("costs", {"profile": 3}, "costs.profile", "not text", "'3'"),
        ("costs", {"forward": 3, "profile": "x"}, "costs.forward", "unknown key", None),
    ],
)
def test_wrong_values_of_the_cluster_form(
    cluster: Any, problems: Any, path: str, value: Any, where: str, message: str, nearest: str | None
) -> None:
    found = problems(with_value(cluster, path, value))
    assert (where, message, nearest) in [(p.path, p.message, p.nearest) for p in found]


def test_an_unknown_gpu_lists_the_known_ones(cluster: Any, problems: Any) -> None:
    found = problems(with_value(cluster, "cluster.gpu", "A100"))
    assert found[0].allowed == GPUS


def test_a_bad_gpu_is_found_beside_other_errors_of_its_section(cluster: Any, problems: Any) -> None:
    cluster["cluster"] |= {"gpu": "a100", "nodes": 0, "gpus_per_node": "8"}
    paths = [problem.path for problem in problems(cluster)]
    assert paths == ["cluster.gpus_per_node", "cluster.nodes", "cluster.gpu"]


@pytest.mark.parametrize("key", ["spread", "launch_floor", "gemm"])
def test_a_part_of_a_gpu_that_is_no_mapping_is_one_problem(cluster: Any, problems: Any, key: str) -> None:
    """What is not in it is not missing besides."""
    found = problems(with_value(cluster, "cluster.gpu", {"base": "h100-sxm-80gb", key: 0.02}))
    assert [(p.path, p.message) for p in found] == [(f"cluster.gpu.{key}", "must be a mapping")]


@pytest.mark.parametrize("name", catalog.names("gpus"))
def test_every_gpu_of_the_catalog_is_accepted(cluster: Any, name: str) -> None:
    precision = "fp16" if name[0] in "pv" else "bf16"
    cluster["cluster"] = {"gpu": name, "nodes": 12}
    config = load_config(cluster, [f"training.precision={precision}"])
    assert isinstance(config, ClusterConfig)
    assert config.build_cluster().gpu.name == name


@pytest.mark.parametrize("name", catalog.names("models"))
def test_every_model_of_the_catalog_is_accepted(cluster: Any, name: str) -> None:
    config = load_config({**cluster, "model": name, "parallelism": {"pipeline": 2}, "schedule": "1f1b"})
    assert isinstance(config, ClusterConfig)
    assert config.build_model().name == name


@pytest.mark.parametrize(
    ("section", "key", "known"),
    [
        (sections.Training, "precision", training.PRECISIONS),
        (sections.Training, "recompute", training.RECOMPUTES),
        (sections.Training, "optimizer", training.OPTIMIZERS),
        (sections.Training, "tensor_overlap", training.TENSOR_OVERLAPS),
        (sections.Training, "gathered_inputs", training.GATHERED_INPUTS),
        (sections.Training, "context_method", training.CONTEXT_METHODS),
        (sections.Training, "dispatch", training.DISPATCHES),
        (sections.Training, "data_overlap", training.DATA_OVERLAPS),
    ],
)
def test_choices_are_those_of_the_workload(section: Any, key: str, known: tuple[str, ...]) -> None:
    assert get_args(section.model_fields[key].annotation) == known


@pytest.mark.parametrize(
    ("config", "message", "nearest"),
    [
        ({}, "not a config of either form", None),
        ({"schedule": "1f1b"}, "not a config of either form", None),
        ({"pipline": {"ranks": 4}}, "not a config of either form", "pipeline"),
        ({"pipeline": {}, "model": "x"}, "two forms of config in one", None),
        ({"memory": {}, "training": {}}, "two forms of config in one", None),
    ],
)
def test_a_config_has_exactly_one_form(problems: Any, config: Any, message: str, nearest: str | None) -> None:
    (problem,) = problems(config)
    assert (problem.path, problem.message, problem.nearest) == ("", message, nearest)


def test_keys_that_are_not_text_are_unknown_keys(abstract: Any, problems: Any) -> None:
    abstract["costs"][3] = 1
    (problem,) = problems(abstract)
    assert (problem.path, problem.message) == ("costs.3", "unknown key")


def test_everything_wrong_is_reported_at_once(cluster: Any, problems: Any) -> None:
    cluster["cluster"]["gpu"] = "x"
    cluster["parallelism"]["tensor"] = 0
    cluster["schedule"]["chunks"] = "two"
    cluster["training"] |= {"zero": 9, "nope": 1}
    cluster["surprise"] = 1
    del cluster["model"]
    assert [problem.path for problem in problems(cluster)] == [
        "schedule.chunks",
        "model",
        "parallelism.tensor",
        "training.zero",
        "training.nope",
        "surprise",
        "cluster.gpu",
    ]


def test_sections_are_frozen(abstract: Any) -> None:
    config = load_config(abstract)
    with pytest.raises(ValueError, match="frozen"):
        config.schedule = "1f1b"  # type: ignore[misc, assignment]


def test_defaults_of_the_simulation() -> None:
    assert Simulation().plain() == {
        "engine": "event",
        "network": "ideal",
        "p2p": "overlapped",
        "seed": 0,
        "pair_factor": 1.0,
        "extrapolate": False,
    }


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("model", "a model's name, a path to a Hugging Face config.json, or its fields"),
        ("parallelism", "a mapping of pipeline, tensor, data, context, expert, order"),
        ("schedule", "a schedule's name, or {name, options}"),
        ("cluster.gpu", "a GPU's name, or {base: name, memory: ..., ...}"),
        ("cluster.nodes", "a whole number of at least 1"),
        ("training.global_batch", "a whole number of at least 1"),
    ],
)
def test_what_is_missing_comes_with_what_it_takes(cluster: Any, problems: Any, path: str, allowed: str) -> None:
    """A key that is not there is reported with the type or the choices that it wants."""
    assert Problem(path, "is missing", allowed=allowed) in problems(with_value(cluster, path, ...))


def test_a_missing_profile_is_asked_for_as_a_file(cluster: Any, problems: Any) -> None:
    """`costs` without a profile says that a CSV file is wanted."""
    expected = Problem("costs.profile", "is missing", allowed="a CSV file, relative to the config")
    assert problems(with_value(cluster, "costs", {})) == [expected]


def test_an_inline_gpu_without_a_base_says_what_to_start_from(cluster: Any, problems: Any) -> None:
    """`gpu: {memory: 5}` is a GPU without a base: all that could be one are listed, and nothing was found."""
    expected = Problem("cluster.gpu.base", "is missing: the GPU to start from", allowed=GPUS)
    assert problems(with_value(cluster, "cluster.gpu", {"memory": 5})) == [expected]
