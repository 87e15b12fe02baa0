"""A starter config is valid, fits, and is the plan that was simulated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import pipesim
from pipesim.config.model import build_model
from pipesim.errors import ConfigError, PipesimError
from pipesim.hardware.gpu import build_gpu
from pipesim.study.starter import ROOM, Wish, _Search, _simulated, starter
from pipesim.study.starter_file import starter_file


@pytest.mark.parametrize(
    ("model", "cluster"),
    [
        ("gpt2-1.3b", "4xa100-sxm-40gb"),
        ("llama-3-8b", "16xh100-sxm-80gb"),
        ("gpt-22b", "v100-sxm2-32gb"),
        ("mixtral-8x7b", "h200-sxm-141gb"),
    ],
)
def test_the_file_is_the_simulated_plan(model, cluster):
    """It reads back as the same data, and simulates to the same step within the memory there is."""
    wish = Wish.read(model, cluster)
    plan = starter(wish)
    text = starter_file(plan, wish, model)
    read = yaml.safe_load(text)
    assert read | {"schedule": plan.config["schedule"]} == plan.config
    again = pipesim.simulate(read)
    assert again.metrics["step_time_s"] == plan.result.metrics["step_time_s"]
    assert again.metrics["memory"]["peak_bytes"] <= ROOM * again.metrics["memory"]["capacity_bytes"]


def test_commented_lines_are_valid_too():
    """What a reader may uncomment is part of a valid config."""
    wish = Wish.read("gpt2-1.3b", "4xa100-sxm-40gb")
    text = starter_file(starter(wish), wish, "gpt2-1.3b")
    opened = text.replace("  # inter_node:", "  inter_node:").replace("# simulation:", "simulation:")
    config = pipesim.load(yaml.safe_load(opened))
    assert (config.simulation.network, config.inter_node) == ("fifo", "infiniband-hdr")


def test_all_gpus_are_used():
    """Of those asked for, none is idle."""
    split = starter(Wish.read("gpt-7.5b", "24xa100-sxm-80gb")).config["parallelism"]
    assert split["pipeline"] * split["tensor"] * split["data"] == 24


def test_without_a_number_it_takes_the_fewest_nodes():
    """Half of them would not do: 22 billion parameters need 16 bytes each."""
    cluster = starter(Wish.read("gpt-22b", "v100-sxm2-32gb")).config["cluster"]
    assert cluster["nodes"] == 2
    with pytest.raises(PipesimError, match=r"does not fit on 8xv100-sxm2-32gb: it needs .* it fits on 16xv100"):
        starter(Wish.read("gpt-22b", "8xv100-sxm2-32gb"))


@pytest.mark.parametrize(("model", "gpus"), [("gpt2-1.3b", 8), ("mixtral-8x7b", 16)])
def test_no_split_needs_less_than_its_state(model, gpus):
    """So that those that are not simulated for that reason would not have fitted: peaks are above the bound."""
    search = _Search(build_model(model, Path()), build_gpu("h100-sxm-80gb"), Wish(model, "h100-sxm-80gb", gpus))
    simulated = [(split, _simulated(search.config(split, "full"))) for split in search.splits(gpus)]
    found = [
        (search.least_bytes(split), plan.result.metrics["memory"]["peak_bytes"]) for split, plan in simulated if plan
    ]
    assert len(found) > 8
    assert all(0 < least < peak for least, peak in found)


def test_what_can_never_fit_is_not_simulated(monkeypatch):
    """A trillion parameters on one small GPU: only the number of GPUs that would do is looked for, in few plans."""
    tried = []

    def spy(config):
        tried.append(config)
        return _simulated(config)

    monkeypatch.setattr("pipesim.study.starter._simulated", spy)
    with pytest.raises(PipesimError, match=r"it needs 16\.1 TB on some GPU.* it fits on 4096xp100-pcie-16gb"):
        starter(Wish.read("gpt-1t", "1xp100-pcie-16gb"))
    assert min(config["cluster"]["nodes"] for config in tried) > 100
    assert len(tried) < 30


@pytest.mark.parametrize(
    ("model", "cluster", "near"), [("gpt3-17b", "h100-sxm-80gb", "gpt3"), ("gpt-7.5b", "h100", "h1")]
)
def test_unknown_names_are_errors_of_the_config(model, cluster, near):
    """With the nearest one."""
    with pytest.raises(ConfigError, match=f"did you mean {near}"):
        starter(Wish.read(model, cluster))


@pytest.mark.parametrize("number", ["0", "9", "100", "99999"])
def test_only_whole_nodes(number):
    """Up to eight GPUs are one node."""
    with pytest.raises(PipesimError, match="cannot make nodes"):
        Wish.read("gpt-7.5b", f"{number}xh100-sxm-80gb")


def test_progress_ends_at_all():
    """It is told after every candidate."""
    calls = []
    starter(Wish.read("gpt2-1.3b", "4xa100-sxm-40gb"), lambda *call: calls.append(call))
    assert [done for done, _ in calls] == list(range(1, len(calls) + 1))
    assert {total for _, total in calls} == {len(calls)}


def test_a_config_json_is_a_model(tmp_path):
    """As everywhere."""
    fields = {
        "model_type": "llama",
        "num_hidden_layers": 16,
        "hidden_size": 2048,
        "num_attention_heads": 16,
        "intermediate_size": 5632,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields))
    assert starter(Wish.read(str(path), "2xa100-sxm-40gb")).fits
