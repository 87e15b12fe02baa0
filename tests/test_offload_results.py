"""Offloading in whole runs: configs in, results, summaries and pictures out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.text import Text

import pipesim
from pipesim.cli import main
from pipesim.engine import event
from pipesim.errors import ConfigError

CONFIG = Path(__file__).parents[1] / "configs" / "pipe_offload_a100.yaml"
FEW = "training.global_batch=16"
ABSTRACT = {
    "pipeline": {"ranks": 4, "microbatches": 8},
    "costs": {"forward": 1, "input_grad": 1, "weight_grad": 1, "offload": 3},
    "memory": {"activation": 2, "weight_grad_share": 1},
    "schedule": {"name": "pipe-offload", "chunks": 2, "offload": "half"},
}


def test_an_abstract_run():
    """A round trip of 3 beside ops of 3 is k = 1; the first chunk of every rank goes out and comes back."""
    result = pipesim.simulate(ABSTRACT)
    section = result.metrics["offload"]
    assert section == {
        "k": 1.0,
        "share": 0.5,
        "copies": 32,
        "copied_bytes": 8.0,
        "waited_s": 0.0,
        "host_peak_bytes": section["host_peak_bytes"],
        "node_peak_bytes": None,
        "host_capacity_bytes": None,
        "host_fits": None,
    }
    assert section["host_peak_bytes"][0] == 5
    plain = {**ABSTRACT, "schedule": {"name": "pipe-offload", "offload": "none"}}
    assert result.metrics["step_time_s"] == pipesim.simulate(plain).metrics["step_time_s"]
    assert [rank["memory"]["peak_bytes"] for rank in result.metrics["ranks"]] == [4, 3, 3, 2]
    assert [rank["memory"]["peak_bytes"] for rank in pipesim.simulate(plain).metrics["ranks"]] == [7, 6, 5, 4]


def test_tables_and_pictures_show_the_copies():
    """Copies are on a lane of their own; the memory curve is what the metrics say."""
    result = pipesim.simulate(ABSTRACT)
    copies = result.timeline[result.timeline["resource"] == "host"]
    assert copies["kind"].value_counts()[["OFFLOAD", "RELOAD"]].tolist() == [32, 32]
    held = result.memory[result.memory["category"] == "activations"].groupby("rank")["bytes"].max()
    assert held.tolist() == [4, 3, 3, 2]
    labels = [text.get_text() for text in result.gantt(lanes="all").figure.findobj(Text)]
    assert {"offload", "reload"} <= set(labels)
    assert "Offload ratio k           1.000" in result.summary()


def test_both_engines_run_the_config():
    """To the picosecond."""
    config = pipesim.load(CONFIG, [FEW])
    compiled = pipesim.simulate(config, engine="compiled")
    assert (event.run(compiled.raw.graph).end == compiled.raw.end).all()
    assert compiled.metrics["offload"]["waited_s"] == 0
    assert compiled.metrics["offload"]["host_fits"] is True


@pytest.mark.parametrize("network", ["fifo", "fair"])
def test_other_networks_run_it_too(network):
    """Transfers that wait for each other delay ops, and no rank holds more for it than on an ideal network."""
    ideal = pipesim.simulate(pipesim.load(CONFIG, [FEW]))
    shared = pipesim.simulate(pipesim.load(CONFIG, [FEW, f"simulation.network={network}"]))
    assert shared.metrics["step_time_s"] >= ideal.metrics["step_time_s"]
    # An activation more is possible: copies that start earlier than planned leave room in the ideal run.
    assert shared.metrics["memory"]["peak_bytes"] < 1.1 * ideal.metrics["memory"]["peak_bytes"]


def test_host_memory_is_limited(capsys):
    """Too little of it does not fit, whatever the GPU has: exit code 1, and the summary says what is missing."""
    code = main(["run", str(CONFIG), "--set", FEW, "--set", "cluster.host_memory=100 GB", "--json", "-"])
    metrics = json.loads(capsys.readouterr().out)
    assert code == 1
    assert metrics["memory"]["peak_bytes"] < metrics["memory"]["capacity_bytes"]
    assert (metrics["memory"]["fits"], metrics["offload"]["host_fits"]) == (False, False)
    main(["run", str(CONFIG), "--set", FEW, "--set", "cluster.host_memory=100 GB"])
    printed = capsys.readouterr().out
    assert "DOES NOT FIT" in printed
    assert "of a node's host memory, which has 100 GB" in printed


def test_a_refused_plan_is_bad_input(capsys):
    """Exit code 2, with the path and the numbers."""
    assert main(["run", str(CONFIG), "--set", "cluster.host_link.duplex=5 GB/s"]) == 2
    said = capsys.readouterr().err
    assert "schedule: copying a share of 0.667" in said
    assert "times as fast" in said


def test_a_wrong_switch_is_named(capsys):
    """With the rest of what is wrong."""
    wrong = ["--set", "cluster.gpus_per_switch=3", "--set", "cluster.host_link.bandwith=3", "--set", "training.zero=9"]
    assert main(["validate", str(CONFIG), *wrong]) == 2
    said = capsys.readouterr().err
    assert "cluster.gpus_per_switch: does not fit" in said
    assert "cluster.host_link.bandwith: unknown key" in said
    assert "training.zero" in said


@pytest.mark.parametrize("ranks", [1, 4])
def test_offloading_that_does_not_take_place_is_told(ranks):
    """One rank goes back at once; on four, copies that take a hundred times as long as computing fit nowhere."""
    slow = {**ABSTRACT, "pipeline": {"ranks": ranks, "microbatches": 8}}
    slow["costs"] = {**ABSTRACT["costs"], "offload": 300}
    metrics = pipesim.simulate(slow).metrics
    assert metrics["offload"] is None
    assert "nothing is offloaded: a copy out and back takes 150 or more" in metrics["warnings"][0]
    assert pipesim.simulate(ABSTRACT).metrics["warnings"] == []


def test_waiting_for_copies_is_counted():
    """Twice as slow as computing: the step is longer, and not by more than ranks wait for copies or for each other."""
    slow = {**ABSTRACT, "pipeline": {"ranks": 4, "microbatches": 64}}
    slow["costs"] = {**ABSTRACT["costs"], "offload": 6}
    full = {"name": "pipe-offload", "offload": "full"}
    plain = pipesim.simulate({**slow, "schedule": {"name": "pipe-offload", "offload": "none"}}).metrics
    waits = pipesim.simulate({**slow, "schedule": {**full, "overload": "wait"}}).metrics
    longer = waits["step_time_s"] - plain["step_time_s"]
    assert longer > 0
    assert 0.25 * longer < waits["offload"]["waited_s"] < longer  # the mean: a rank's wait is also its neighbours'
    with pytest.raises(ConfigError, match="with overload: wait"):
        pipesim.simulate({**slow, "schedule": full})


def test_gis_offloads_too():
    """The same lowering serves every schedule that asks for it: half the chunks, the same step, less memory."""
    runs = [
        pipesim.simulate({**ABSTRACT, "schedule": {"name": "gis", "chunks": 2, "offload": offload}}).metrics
        for offload in ("none", "half")
    ]
    assert runs[0]["step_time_s"] == runs[1]["step_time_s"]
    assert runs[1]["memory"]["peak_bytes"] < runs[0]["memory"]["peak_bytes"]
