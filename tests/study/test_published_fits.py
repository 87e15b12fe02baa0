"""Whether published plans fit in memory: those that ran have to, those that ran out of memory must not."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import pipesim
from pipesim.study.measurements import measurements, sources
from pipesim.study.quantities import simulate

DATA = Path(__file__).parents[1] / "data" / "memory" / "published_fits.csv"
CASES = list(csv.DictReader(line for line in DATA.read_text().splitlines() if not line.startswith("#")))
OUTCOMES = ("ran", "out of memory", "out of host memory")

OUT_OF_MEMORY_IN_THEIR_RUNTIME = {"1f1b on 16 x 128 none recomputation"}
"""Chimera's Figure 1 says that this does not fit in 16 GB; here it takes 14.2 of 17.1. The runtime prints what the
allocator of PyTorch 1.6 has reserved (Shigangli/Chimera chimera/chimera_gpt2/runtime.py), which for GEMS and Chimera is
1.2 times what is simulated without CUDA and NCCL; 1.2 times this plan's 13.3, and CUDA, leave nothing.
"""

NOT_A_WHOLE_RUN = {"layer_s", "layer_forward_s", "layer_backward_s", "state_bytes", "activation_bytes"}
"""Rows that time one layer, and the bars of Korthikanti's Figure 1, which shows what does not fit."""

EVERY = {"vtrain-a100": 40}
"""How many rows of a source one row stands for, where there are many alike."""


def fits(config):
    return pipesim.simulate(config).metrics["memory"]["fits"]


def test_the_table_has_both_outcomes_of_every_kind():
    """68 cells of PipeOffload's Figure 15, 33 runs of zero-bubble schedules, 12 of Korthikanti, 6 of Chimera."""
    assert {row["outcome"] for row in CASES} == set(OUTCOMES)
    counts = [sum(row["source"] == source for row in CASES) for source in dict.fromkeys(row["source"] for row in CASES)]
    assert counts == [68, 33, 12, 6]


@pytest.mark.parametrize("row", CASES, ids=lambda row: f"{row['source']} {row['case']}")
def test_published_outcome(row):
    """Right in every case but one, which is listed with the reason."""
    ran = row["outcome"] == "ran"
    expected = True if row["case"] in OUT_OF_MEMORY_IN_THEIR_RUNTIME else ran
    assert fits(json.loads(row["config"])) is expected


def test_peaks_of_zero_bubble_runs():
    """Seven schedules on 8 to 32 GPUs, printed in whole GB, taken as GiB as Megatron-LM reports memory; allocated, so
    without context, NCCL and fragmentation. 2.8 % on average: 8 to 10 % less for the smallest model, with the largest
    activations (of ZB-2p, ordered by predicted durations, one is held less than was), 5 % at most elsewhere.
    """
    none = {"context_memory": 0, "nccl_memory": 0, "fragmentation": 0}
    errors = []
    for row in (row for row in CASES if row["peak_gb"]):
        config = json.loads(row["config"])
        found = pipesim.simulate({**config, "cluster": {**config["cluster"], **none}}).metrics["memory"]["peak_bytes"]
        errors.append(abs(found / 2**30 / float(row["peak_gb"]) - 1))
        assert errors[-1] < (0.105 if row["case"].startswith("1.5B") else 0.055)
    assert len(errors) == 33
    assert sum(errors) / len(errors) < 0.03


def test_only_the_host_is_full_where_only_the_host_was():
    """PO-F of 42.9B at 32k: device memory is enough, a node's is not (with 1 TB, which its other runs need at most)."""
    config = json.loads(next(row["config"] for row in CASES if row["outcome"] == "out of host memory"))
    metrics = pipesim.simulate(config).metrics
    assert metrics["memory"]["peak_bytes"] < metrics["memory"]["capacity_bytes"]
    assert metrics["offload"]["host_fits"] is False


@pytest.mark.parametrize("source", [source.name for source in sources()])
def test_every_published_run_fits(source):
    """Whatever has a measured time has run."""
    runs = {row.key: row for row in measurements([source]) if row.quantity not in NOT_A_WHOLE_RUN}
    chosen = list(runs.values())[:: EVERY.get(source, 1)]
    assert [row.label for row in chosen if not simulate(row).result.fits] == []
