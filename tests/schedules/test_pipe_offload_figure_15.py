"""Activation memory of interleaved 1F1B, GIS, GIS-H and PipeOffload beside what arXiv 2503.01328 measured.

Figure 15: GPT with eight key-value heads per model, as many chunks as there are layers on a rank, one layer less on
the first and on the last stage, norms, GeLU and dropout repeated in the backward, on A100s at 15 GB/s to the host.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pipesim.api import plan, simulate_plan
from pipesim.errors import ConfigError

DATA = Path(__file__).parents[1] / "data" / "pipe_offload" / "figure15.csv"
MODELS = {"10.5B/8": (38, 5120, 40, 8, 5), "18.1B/16": (46, 6144, 48, 16, 3), "42.9B/32": (62, 8192, 64, 32, 2)}
"""Layers, hidden size, heads, ranks and chunks (section 5 of the paper)."""

METHODS = {
    "1F1B-I": {"name": "interleaved-1f1b"},
    "GIS": {"name": "gis"},
    "GIS-H": {"name": "gis-h"},
    "PO-H": {"name": "pipe-offload", "offload": "half", "copies": "alternating"},
    "PO-F": {"name": "pipe-offload", "offload": "full", "copies": "alternating"},
}
ROWS = [
    row
    for row in csv.DictReader(DATA.read_text().splitlines())
    if row["method"] in METHODS and row["activation_memory_gb"].replace(".", "").isdigit()
]
OVERLOADED = ("10.5B/8", "16384", "PO-F")
"""Copies take 1.07 times as long as computing: refused. Measured at 59 % MFU where PO-H reached 63 %."""

LESS_THAN_MEASURED = {("42.9B/32", "4096", "PO-F"), ("42.9B/32", "8192", "PO-F")}
"""Measured 5 and 8 GB, at 6 and 5 % less throughput than PO-H: on these four nodes copies did not keep up, so that
activations waited for them. Without that it is a third less."""

MICROBATCHES = 64
"""Enough for the peaks, which are the same with the paper's 64 to 256."""


def config(row):
    layers, hidden, heads, ranks, chunks = MODELS[row["model/gpus"]]
    return {
        "model": {
            "layers": layers, "hidden": hidden, "heads": heads, "kv_heads": 8, "ffn": 4 * hidden, "vocab": 51200,
            "sequence": int(row["seq_len"]), "gated_mlp": False, "tied_embeddings": False,
        },
        "cluster": {
            "gpu": "a100-sxm-80gb", "nodes": ranks // 8, "inter_node": "roce-100",
            # Copies that are alone on the link take 0.7 of the time in the paper's scheduler.
            "host_link": {"bandwidth": 15e9 / 0.7, "duplex": 15e9},
        },
        "parallelism": {"pipeline": ranks},
        "schedule": {**METHODS[row["method"]], "chunks": chunks},
        "training": {
            "global_batch": MICROBATCHES, "recompute": "pointwise",
            "partition": [0, *[1] * (ranks * chunks - 2), 0],
        },
    }  # fmt: skip


def key(row):
    return row["model/gpus"], row["seq_len"], row["method"]


def activations(row):
    """GB on the fullest rank."""
    metrics = simulate_plan(plan(config(row)), "compiled").metrics
    return max(rank["memory"]["activations_bytes"] for rank in metrics["ranks"]) / 1e9


def test_all_that_ran_is_compared():
    """Cells of the figure with a number, of the five methods."""
    assert len(ROWS) == 36


@pytest.mark.parametrize("row", [row for row in ROWS if key(row) != OVERLOADED], ids=lambda row: "-".join(key(row)))
def test_activation_memory(row):
    """Within 15 % of the printed number, or of what rounds to it: it is printed in whole GB."""
    printed, found = float(row["activation_memory_gb"]), activations(row)
    if key(row) in LESS_THAN_MEASURED:
        assert 0.6 * printed < found < 0.85 * printed
    else:
        assert found == pytest.approx(printed, rel=0.15)


def test_what_measured_slower_than_half_is_refused():
    """With how much too slow the copies are; the share that it names runs."""
    row = next(row for row in ROWS if key(row) == OVERLOADED)
    with pytest.raises(ConfigError, match=r"takes 1\.0\d times as long as computing.* a share of 0\.9\d can"):
        activations(row)
    smaller = config(row)
    smaller["schedule"]["offload"] = 0.9
    assert simulate_plan(plan(smaller), "compiled").metrics["offload"]["share"] > 0.7
