"""Sections that are right by themselves and wrong together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipesim.config import ClusterConfig, load_config
from pipesim.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "where", "message", "nearest"),
    [
        (["training.global_batch=1535", "training.micro_batch=2"], "training.global_batch", "does not", "1534 or 1536"),
        (["training.global_batch=1", "training.micro_batch=4"], "training.global_batch", "micro-batches", "4"),
        (["parallelism.data=2"], "parallelism", "needs more GPUs than the cluster has", "cluster.nodes: 24"),
        (["cluster.nodes=11"], "parallelism", "needs more GPUs than the cluster has", "cluster.nodes: 12"),
        (["parallelism.tensor=7"], "parallelism.tensor", "attention heads", None),
        (["model=llama-2-70b", "parallelism.tensor=6"], "parallelism.tensor", "attention heads", None),
        (["model.kv_heads=12"], "parallelism.tensor", "does not split the key-value heads", None),
        (["model.sequence=2052", "model.positions=rotary"], "parallelism.tensor", "sequence parallelism",
         "training.sequence_parallel: false"),
        (["parallelism.context=3"], "parallelism.context", "does not divide the tokens of a sequence", None),
        (["training.context_method=all-to-all", "parallelism.context=8", "parallelism.pipeline=2"],
         "parallelism.context", "does not divide the attention heads of a GPU", None),
        (["training.context_method=all-to-all", "parallelism.context=4", "parallelism.pipeline=3", "model.kv_heads=24"],
         "parallelism.context", "does not split the key-value heads", None),
        (["training.optimizer=adam-remainders", "training.precision=fp16"], "training.optimizer", "completes", None),
        (["parallelism.expert=2"], "parallelism.expert", "the model has no experts", None),
        (["parallelism.expert=3"], "parallelism.expert", "does not fit", None),
        (["training.partition=[96]"], "training.partition", "does not have one entry per stage", None),
        (["schedule=1f1b", "training.partition=[7,8,8,8,8,8,8,8,8,8,8,8]"], "training.partition", "add up", None),
        (["schedule.chunks=10"], "schedule", "more stages than layers", None),
        (["model.layers=100000", "training.partition=balanced"], "training.partition", "too many layers", None),
        (["schedule.chunks=1000000000"], "schedule", "more stages than layers", None),
        (["training.global_batch=13", "schedule.chunks=4"], "schedule", "it must be empty or at least P = 12", None),
        (["cluster.gpu=v100-sxm2-32gb"], "training.precision", "does not compute in this precision", None),
        (["training.global_batch=1000000000"], "training.global_batch", "too large to simulate", None),
        (["cluster.nics_per_node=8", "cluster.inter_node={base: roce-100, nics_per_node: 4}"], "cluster.nics_per_node",
         "differs from", None),
    ],
)  # fmt: skip
def test_numbers_that_do_not_go_together(
    cluster: Any, problems: Any, overrides: list[str], where: str, message: str, nearest: str | None
) -> None:
    found = [p for p in problems(cluster, *overrides) if p.path == where and message in p.message]
    assert [problem.nearest for problem in found] == [nearest]


@pytest.mark.parametrize(
    ("overrides", "where", "message"),
    [
        (["costs.forward=[1,1,1]"], "costs.forward", "wrong number of entries"),
        (["costs={forward: 0, input_grad: [0,0,0,0,0,0,0,0], weight_grad: 0}"], "costs", "all ops take no time"),
        (["costs={forward: 1.0e-13, input_grad: 1.0e-12, weight_grad: 0}"], "costs", "too short for a clock"),
        (["memory.activation=1.0e+308"], "memory.activation", "out of range"),
        (["costs.p2p=1.0e+300"], "costs.p2p", "out of range"),
        (["pipeline.microbatches=5"], "schedule", "it must be empty or at least P = 4"),
        (["pipeline={ranks: 10000, microbatches: 1000000000}"], "pipeline", "too large to simulate"),
        (["schedule.chunks=100000000"], "pipeline", "too large to simulate"),
        (["pipeline={ranks: 10000, microbatches: 1}", "schedule.chunks=2"], "pipeline", "too large to simulate"),
    ],
)
def test_abstract_numbers_that_do_not_go_together(
    abstract: Any, problems: Any, overrides: list[str], where: str, message: str
) -> None:
    (problem,) = problems(abstract, *overrides)
    assert problem.path == where
    assert message in problem.message


def test_a_list_of_costs_has_one_entry_per_stage(abstract: Any) -> None:
    assert load_config(abstract, ["costs.forward=[1,2,3,4,5,6,7,8]"]).form == "abstract"


def test_several_cross_checks_fail_together(cluster: Any, problems: Any) -> None:
    found = problems(cluster, "parallelism.tensor=7", "training.global_batch=1537", "training.micro_batch=4")
    assert [problem.path for problem in found] == ["parallelism.tensor", "training.global_batch"]


def test_a_job_may_leave_gpus_idle_and_says_so(cluster: Any) -> None:
    config = load_config(cluster, ["cluster.nodes=16"])
    assert config.notes() == ["the job uses 96 of the cluster's 128 GPUs"]
    assert load_config(cluster).notes() == []


def test_heads_that_tensor_cores_cannot_take_are_said(cluster: Any) -> None:
    odd = ["model={base: gpt3-175b, head_dim: 108}"]
    (note,) = load_config(cluster, [*odd, "training.flash_attention=false"]).notes()
    assert "multiple of 8" in note
    assert load_config(cluster, odd).notes() == []
    assert load_config(cluster, [*odd, "training.flash_attention=false", "training.precision=fp32"]).notes() == []
    assert load_config(cluster, ["training.flash_attention=false"]).notes() == []


def test_experts_are_split_over_data_parallel_ranks(cluster: Any) -> None:
    overrides = ["model=mixtral-8x7b", "parallelism={pipeline: 2, data: 4, expert: 4}", "schedule=1f1b"]
    assert load_config(cluster, overrides).microbatches == 384


def test_a_model_of_a_config_json_is_found_beside_the_config(tmp_path: Path, cluster: Any) -> None:
    fields = {"num_hidden_layers": 24, "hidden_size": 2048, "num_attention_heads": 16, "vocab_size": 32000}
    fields |= {"intermediate_size": 5504, "max_position_embeddings": 4096}
    (tmp_path / "tiny.json").write_text(json.dumps({**fields, "model_type": "llama"}))
    (tmp_path / "config.yaml").write_text(str({**cluster, "model": "tiny.json"}))
    config = load_config(tmp_path / "config.yaml")
    assert isinstance(config, ClusterConfig)
    assert (config.build_model().layers, config.build_model().sequence) == (24, 4096)
    shorter = load_config(tmp_path / "config.yaml", ["model.sequence=2048"])
    assert isinstance(shorter, ClusterConfig)
    assert shorter.build_model().sequence == 2048


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "is missing"),
        ('{"model_type": "lama"}', "unknown family"),
        ('{"model_type": "llama"}', "is missing"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_file_that_is_no_model(tmp_path: Path, cluster: Any, problems: Any, content: str, message: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    (tmp_path / "config.yaml").write_text(str({**cluster, "model": "./bad.json"}))
    assert all(message in problem.message for problem in problems(tmp_path / "config.yaml"))


def test_a_model_may_be_given_by_fields_of_hugging_face_or_in_a_file_of_our_own(tmp_path: Path, cluster: Any) -> None:
    fields = {"layers": 24, "hidden": 2048, "heads": 16, "vocab": 32000, "sequence": 4096}
    (tmp_path / "own.json").write_text(json.dumps(fields))
    theirs = {"model_type": "gpt2", "n_layer": 24, "n_embd": 2048, "n_head": 16, "vocab_size": 32000}
    for model in (str(tmp_path / "own.json"), fields, {**theirs, "n_positions": 4096}):
        config = load_config({**cluster, "model": model})
        assert isinstance(config, ClusterConfig)
        assert (config.build_model().layers, config.build_model().sequence) == (24, 4096)


def test_only_the_sequence_of_a_config_json_can_be_changed(tmp_path: Path, cluster: Any, problems: Any) -> None:
    (tmp_path / "tiny.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 8}))
    (problem,) = problems(cluster, f"model={{base: {tmp_path}/tiny.json, layers: 3, sequence: 4}}")
    assert (problem.path, problem.allowed) == ("model.layers", "sequence")


@pytest.mark.parametrize("value", ['"x"', "-3", "null", "[]", "{}", "1e400", "true", "1e18"])
@pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers"])
def test_a_config_json_with_nonsense_is_an_error_and_no_more(
    tmp_path: Path, cluster: Any, key: str, value: str
) -> None:
    fields = {"num_hidden_layers": 24, "hidden_size": 2048, "num_attention_heads": 16, "vocab_size": 32000}
    fields |= {"intermediate_size": 5504, "max_position_embeddings": 4096}
    text = json.dumps({**fields, "model_type": "llama", key: "VALUE"}).replace('"VALUE"', value)
    (tmp_path / "bad.json").write_text(text)
    cluster["model"] = str(tmp_path / "bad.json")
    if key == "num_key_value_heads" and value == "null":
        assert load_config(cluster).form == "cluster"
        return
    with pytest.raises(ConfigError) as caught:
        load_config(cluster)
    assert all(problem.path.startswith(("model", "parallelism")) for problem in caught.value.problems)


def test_a_profile_is_found_beside_the_config(tmp_path: Path, cluster: Any) -> None:
    (tmp_path / "measured.csv").write_text("stage,forward\n")
    (tmp_path / "config.yaml").write_text(str({**cluster, "costs": {"profile": "measured.csv"}}))
    config = load_config(tmp_path / "config.yaml")
    assert config.resolved()["costs"] == {"profile": "measured.csv"}
    assert config.directory == tmp_path


@pytest.mark.parametrize(
    ("override", "stages", "allowed"),
    [
        ("schedule={name: hanayo, waves: 100000}", "800000 stages", "at most 100000 stages"),
        ("schedule={name: interleaved-1f1b, chunks: 1000000}", "4000000 stages", "at most 100000 stages"),
        ("pipeline={ranks: 10000, microbatches: 10000000}", "20000 stages", "for stages x ranks"),
        ("pipeline={ranks: 4, microbatches: 10000000}", "8 stages x 10000000 micro-batches", "at most 2e+08 ops"),
    ],
)
def test_an_absurd_size_names_its_factors_and_what_to_reduce(
    abstract: Any, problems: Any, override: str, stages: str, allowed: str
) -> None:
    """Before any op is generated, whichever engine is to run: how the size comes about, and which numbers to lower."""
    for engine in ("event", "compiled"):
        (problem,) = problems(abstract, override, f"simulation.engine={engine}")
        assert str(problem.found).startswith(stages)
        assert allowed in str(problem.allowed)
        assert ": fewer " in str(problem.allowed)
