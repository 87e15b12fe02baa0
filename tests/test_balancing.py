"""A balanced partition is chosen from a config's own costs, schedule and memory, and shown in the result."""

from __future__ import annotations

import pytest

import pipesim
from pipesim import api
from pipesim.errors import ConfigError


def config(schedule="1f1b", partition="balanced", ranks=4, model="llama-3-8b", memory="80 GB", **training):
    section = {"global_batch": 16, "micro_batch": 1, **training}
    return {
        "model": model,
        "cluster": {"gpu": {"base": "h100-sxm-80gb", "memory": memory}, "gpus_per_node": 4, "nodes": -(-ranks // 4)},
        "parallelism": {"pipeline": ranks},
        "schedule": schedule,
        "training": section if partition is None else {**section, "partition": partition},
        "simulation": {"engine": "compiled"},
    }


def chosen(result):
    return result.metrics["config"]["training"]["partition"]


SCHEDULES = [
    "1f1b", "gpipe", {"name": "interleaved-1f1b", "chunks": 2}, "zb-h1", "zb-auto", "zb-v", "chimera", "dualpipe-v",
]  # fmt: skip


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_busiest_rank_has_less_to_do_than_with_even_stages(schedule):
    """Llama 3 8B's head is as long as two and a half layers; the resolved config has the layers of each stage."""
    even, balanced = (pipesim.simulate(config(schedule, p, memory="1 TB")) for p in (None, "balanced"))
    assert sum(chosen(balanced)) == 32
    busy = [max(rank["busy_s"] for rank in each.metrics["ranks"]) for each in (even, balanced)]
    assert busy[1] < busy[0]
    total = [sum(rank["busy_s"] for rank in each.metrics["ranks"]) for each in (even, balanced)]
    assert total[1] == pytest.approx(total[0], rel=1e-9)  # times are rounded to picoseconds stage by stage


def test_the_chosen_layers_are_a_config_of_their_own():
    """Simulating the resolved config gives the same result."""
    first = pipesim.simulate(config()).metrics
    assert pipesim.simulate(first["config"]).metrics == first


def test_experts_weigh_more_than_dense_layers():
    """DeepSeek-V3 begins with three dense layers, which take less time: the first stage gets more layers."""
    section = config(model="deepseek-v3", ranks=8, memory="10 TB")
    section["parallelism"] |= {"tensor": 4, "data": 4, "expert": 4}
    section["cluster"]["nodes"] = 32
    layers = chosen(pipesim.simulate(section))
    assert layers[0] == max(layers)
    assert layers[-1] == min(layers)


@pytest.mark.parametrize("schedule", ["1f1b", {"name": "interleaved-1f1b", "chunks": 2}, "chimera"], ids=str)
def test_memory_that_does_not_suffice_is_told_as_simulated(schedule):
    """What the search says is missing is what the simulation finds beyond the capacity, to the shown digit."""
    result = pipesim.simulate(config(schedule, memory="40 GB"))
    memory = result.metrics["memory"]
    note = next(note for note in result.metrics["warnings"] if "no partition" in note)
    assert memory["fits"] is False
    assert pipesim.units.format_bytes(memory["peak_bytes"] - memory["capacity_bytes"]) in note


def test_a_partition_that_fits_is_found_where_an_even_one_does_not():
    """1F1B holds most in flight on rank 0: with little memory it gets fewer layers, and the step takes longer."""
    memory = {}
    for name in (None, "balanced"):
        memory[name] = pipesim.simulate(config(partition=name)).metrics["memory"]["peak_bytes"]
    result = pipesim.simulate(config(memory=memory[None] * 0.95))
    assert result.metrics["memory"]["fits"] is True
    assert chosen(result)[0] < 8
    assert not [note for note in result.metrics["warnings"] if "no partition" in note]


def profile_of(tmp_path, rows, key="layer"):
    path = tmp_path / "profile.csv"
    path.write_text(f"{key},forward_ms,backward_ms\n" + "".join(f"{name},{t},{2 * t}\n" for name, t in rows))
    return str(path)


def test_measured_layers_are_balanced_by_their_measurements(tmp_path):
    """The last eight layers take three times as long: 24 + 3 x 8 over four stages is 12 each."""
    rows = [("embedding", 0), *((layer, 3 if layer >= 24 else 1) for layer in range(32)), ("head", 0)]
    section = {**config(memory="1 TB"), "costs": {"profile": profile_of(tmp_path, rows)}}
    assert chosen(pipesim.simulate(section)) == [12, 12, 4, 4]


def test_stages_measured_as_a_whole_cannot_be_balanced(tmp_path):
    section = {**config(), "costs": {"profile": profile_of(tmp_path, [(stage, 1) for stage in range(4)], "stage")}}
    with pytest.raises(ConfigError, match="measured as a whole") as error:
        pipesim.simulate(section)
    assert error.value.problems[0].path == "training.partition"


def test_unequal_micro_batches_are_balanced_by_their_mean_time_and_their_largest_size():
    """As many long as short sequences; memory holds for the long ones in flight everywhere."""
    mixed, long = ([short, 8192] * 8 for short in (2048, 8192))
    results = [pipesim.simulate(config(memory="75 GB", sequence_lengths=lengths)) for lengths in (mixed, long)]
    assert all(each.metrics["memory"]["fits"] for each in results)
    assert chosen(results[0])[0] == chosen(results[1])[0] < 8


@pytest.mark.parametrize("stages", [33, 34])
def test_embedding_and_head_may_have_stages_to_themselves(stages):
    """33 stages leave one end without layers, 34 both; 35 are refused."""
    section = config(ranks=stages)
    layers = chosen(pipesim.simulate(section))
    assert (len(layers), sum(layers)) == (stages, 32)
    assert 0 not in layers[1:-1]
    section["parallelism"]["pipeline"] = 35
    with pytest.raises(ConfigError, match="at most 34 stages"):
        pipesim.simulate(section)


def test_ends_short_is_resolved_to_a_list_too():
    assert chosen(pipesim.simulate(config(partition="ends-short", ranks=2))) == [16, 16]


def test_a_schedule_that_cuts_inside_layers_takes_no_partition():
    section = config("helix")
    with pytest.raises(ConfigError, match="decides itself"):
        pipesim.load(section)


@pytest.mark.parametrize(("schedule", "ends"), [("zb-v", {0}), ("chimera", {0, 3}), ("1f1b", {0, 3})])
def test_embedding_and_head_are_charged_where_they_are(schedule, ends):
    """A V brings both back to rank 0, two routes to both end ranks; time and memory of the others do not see them."""
    results = []
    for vocabulary in (1024, 128 * 1024):
        section = config(schedule, partition=None)
        section["model"] = {
            "layers": 16, "hidden": 2048, "heads": 16, "vocab": vocabulary, "sequence": 1024, "tied_embeddings": True,
        }  # fmt: skip
        results.append(api.simulate(section).metrics["ranks"])
    for rank, (small, large) in enumerate(zip(*results, strict=True)):
        more = large["memory"]["weights_bytes"] - small["memory"]["weights_bytes"]
        assert more == (127 * 1024 * 2048 * 2 if rank in ends else 0)  # once, in two bytes per weight
        assert (large["busy_s"] - small["busy_s"] > 1e-3) == (rank in ends)
