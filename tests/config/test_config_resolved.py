"""The resolved form, and what holds for every config."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipesim.config import json_schema, load_config
from pipesim.errors import ConfigError
from pipesim.workload.training import RECOMPUTES


def test_the_abstract_form_resolved(abstract: Any) -> None:
    assert load_config({key: abstract[key] for key in ("pipeline", "schedule")}).resolved() == {
        "pipeline": {"ranks": 4, "microbatches": 8},
        "costs": {
            "forward": 1.0,
            "input_grad": 1.0,
            "weight_grad": 1.0,
            "p2p": 0.0,
            "optimizer": 0.0,
            "reconstruct": 0.0,
        },
        "memory": {"activation": 1.0, "weight_grad_share": 0.5, "weights": 0.0},
        "schedule": {"name": "interleaved-1f1b", "chunks": 2, "group_size": None},
        "simulation": {
            "engine": "event",
            "network": "ideal",
            "p2p": "overlapped",
            "seed": 0,
            "pair_factor": 1.0,
            "extrapolate": False,
        },
    }


def test_the_cluster_form_resolved(cluster: Any) -> None:
    resolved = load_config(cluster).resolved()
    assert list(resolved) == ["model", "cluster", "parallelism", "schedule", "training", "simulation"]
    assert resolved["cluster"] == {
        "gpu": "a100-sxm-80gb",
        "gpus_per_node": 8,
        "nodes": 12,
        "intra_node": "nvlink3",
        "inter_node": "infiniband-hdr",
        "context_memory": 0.5e9,
        "nccl_memory": 0.4e9,
        "fragmentation": 0.03,
    }
    assert resolved["training"]["sequence_parallel"] is True
    assert resolved["parallelism"]["order"] == "tp-cp-dp-pp"


@pytest.mark.parametrize("override", ["schedule=1f1b", "costs.forward=[1,2,3,4,5,6,7,8]", "memory.activation=3 GiB"])
def test_a_resolved_config_reads_back_as_itself(abstract: Any, override: str) -> None:
    overrides = [override] if "costs" not in override else [override, "schedule.chunks=2"]
    config = load_config(abstract, overrides)
    again = load_config(json.loads(json.dumps(config.resolved())))
    assert again == config
    assert list(again.resolved()) == list(config.resolved())


def test_a_resolved_cluster_config_reads_back_as_itself(cluster: Any) -> None:
    cluster["cluster"]["gpu"] = {"base": "a100-sxm-80gb", "memory": "64 GB"}
    cluster["training"]["partition"] = [4] * 24
    resolved = load_config(cluster).resolved()
    assert load_config(json.loads(json.dumps(resolved))).resolved() == resolved


def test_resolving_does_not_depend_on_where_the_config_lies(tmp_path: Path, abstract: Any) -> None:
    texts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "config.yaml"
        path.write_text(json.dumps(abstract))
        texts.append(json.dumps(load_config(path).resolved()))
    assert texts[0] == texts[1]


def test_a_config_knows_its_file(tmp_path: Path, abstract: Any) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(abstract))
    assert (load_config(path).source, load_config(path).directory) == (str(path), tmp_path)
    assert (load_config(abstract).source, load_config(abstract).directory) == (None, Path())


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("pipeline: {ranks: 0}")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    first, *rest = str(caught.value).splitlines()
    assert first == f"{path}: 3 problems in the config"
    assert [line.split(":")[0].strip() for line in rest] == ["schedule", "pipeline.ranks", "pipeline.microbatches"]


def test_micro_batches_of_one_replica(cluster: Any) -> None:
    config = load_config(cluster, ["parallelism={pipeline: 12, tensor: 4, data: 2}", "training.micro_batch=4"])
    assert (config.ranks, config.microbatches) == (12, 1536 // (4 * 2))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["gpt3-175b", "a100-sxm-80gb", "1f1b", "3 us", "80 GB", "1e9", -1, 0, 1, 10**9, 10**30]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=5,
)
PATHS = [
    ("model",), ("cluster",), ("cluster", "gpu"), ("cluster", "nodes"), ("cluster", "inter_node"),
    ("cluster", "gpus_per_node"), ("parallelism",), ("parallelism", "pipeline"), ("parallelism", "tensor"),
    ("parallelism", "expert"), ("parallelism", "order"), ("schedule",), ("schedule", "name"), ("schedule", "chunks"),
    ("training",), ("training", "micro_batch"), ("training", "global_batch"), ("training", "partition"),
    ("training", "sequence_parallel"), ("costs",), ("costs", "profile"), ("simulation",), ("simulation", "seed"),
    ("surprise",),
]  # fmt: skip
CLUSTER = {
    "model": {"base": "gpt3-175b"},
    "cluster": {"gpu": {"base": "a100-sxm-80gb"}, "nodes": 12},
    "parallelism": {"pipeline": 12, "tensor": 8},
    "schedule": {"name": "interleaved-1f1b", "chunks": 2},
    "training": {"global_batch": 1536},
}
GPU_FIELDS = ["memory", "memory_bandwidth", "peak", "sms", "gemm", "elementwise", "launch_floor", "intra_node"]
MODEL_FIELDS = ["layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "sequence", "moe", "mla", "norm"]
PATHS += [("cluster", "gpu", key) for key in GPU_FIELDS] + [("model", key) for key in MODEL_FIELDS]
PATHS += [("cluster", "inter_node", key) for key in ("bandwidth", "latency", "nics_per_node", "base")]


def outcome(config: dict[str, Any]) -> str:
    """The resolved config or the error, as text."""
    try:
        return json.dumps(load_config(config).resolved(), allow_nan=False)
    except ConfigError as error:
        return str(error)


@settings(max_examples=300, deadline=None)
@given(path=st.sampled_from(PATHS), value=VALUES)
def test_whatever_is_written_is_a_config_or_a_config_error(path: tuple[str, ...], value: Any) -> None:
    config = json.loads(json.dumps(CLUSTER))
    node = config
    for key in path[:-1]:
        node = node.setdefault(key, {})
    node[path[-1]] = value
    start = time.process_time()
    assert outcome(config)
    # nothing that can be written makes reading it slow; ordinary configs take milliseconds
    assert time.process_time() - start < 5


def test_the_schema_describes_both_forms() -> None:
    schema = json_schema()
    assert [one["$ref"] for one in schema["anyOf"]] == ["#/$defs/AbstractConfig", "#/$defs/ClusterConfig"]
    assert "a100-sxm-80gb" in schema["$defs"]["Cluster"]["properties"]["gpu"]["examples"]
    assert schema["$defs"]["Training"]["properties"]["recompute"]["enum"] == list(RECOMPUTES)
    assert schema["$defs"]["Pipeline"]["additionalProperties"] is False
