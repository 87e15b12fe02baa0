"""HelixPipe from a config: abstract costs, a 7B model on H20s next to 1F1B, and what a config gets told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pipesim
from pipesim.api import plan
from pipesim.errors import ConfigError
from pipesim.ir.op import Kind
from pipesim.lowering.memory import activation_effects

H20 = Path(__file__).parents[2] / "configs" / "helix_7b_h20.yaml"
LENGTHS = (32768, 65536, 98304, 131072)
# From floating-point operations alone: 32 layers of hidden size 4096, causal attention, attention backward 2.5
# times its forward, M = 2P, no communication, against 1F1B without recomputation. The published speedup at 128k
# is 1.26 (arXiv 2507.00394, abstract), with a split into pipeline and tensor parallelism that is not known.
BANDS = {8: (1.10, 1.19, 1.24, 1.27), 4: (1.12, 1.18, 1.22, 1.25), 2: (1.05, 1.10, 1.13, 1.15)}


def abstract(**schedule):
    """Four ranks, 16 layers, eight micro-batches."""
    return {"pipeline": {"ranks": 4, "microbatches": 8}, "schedule": {"name": "helix", "layers": 16, **schedule}}


def h20(*overrides):
    """The 7B config with other values."""
    return pipesim.load(H20, overrides)


def step_s(config):
    """Step time on the compiled engine."""
    return pipesim.simulate(config, engine="compiled").metrics["step_time_s"]


def flop_speedup(ranks, sequence, folds=2):
    """HelixPipe against 1F1B from operations alone; times per token in units of h^2 scaled to small seconds."""
    layers, h = 32, 4096
    linear, core = 1e-6 * h, 1e-6 * 2 * sequence  # b s h^2 and causal b s^2 h, over b s h
    pipeline = {"ranks": ranks, "microbatches": 2 * ranks}

    def stages(attention, post):
        return [0.0, *[attention, post] * layers]

    costs = {
        "forward": stages(6 * linear + core, 18 * linear),
        "input_grad": stages(18 * linear + 2.5 * core, 54 * linear),  # linear parts once more, repeated
        "weight_grad": 0,
    }
    helix = {"name": "helix", "folds": folds, "layers": layers}
    share = layers / ranks
    plain = {"forward": share * (24 * linear + core), "input_grad": share * (48 * linear + 2.5 * core)}
    ours = step_s({"pipeline": pipeline, "schedule": helix, "costs": costs})
    return step_s({"pipeline": pipeline, "schedule": "1f1b", "costs": {**plain, "weight_grad": 0}}) / ours


@pytest.mark.parametrize("folds", [1, 2])
@pytest.mark.parametrize(("ship", "share"), [(True, 0.5), (True, 5 / 9), (False, 0.0), (True, 0.25), (False, 0.75)])
def test_single_numbers_are_divided_among_parts(folds, ship, share):
    """A rank's whole share is busy time of one micro-batch, however it is divided; theory, where known, agrees."""
    result = pipesim.simulate(abstract(folds=folds, ship_weights=ship, attention_share=share))
    for rank in result.metrics["ranks"]:
        assert rank["busy_s"] == pytest.approx(8 * 3, abs=1e-9)  # durations are rounded to picoseconds
        assert rank["peak_in_flight"] == 8
    stated = result.metrics["theory"]["bubble_fraction"]
    if stated is not None:
        assert stated == pytest.approx(result.metrics["bubble_fraction"], abs=1e-9)  # rounded to picoseconds
    # Two folds: nothing is known with a part in front of attention, nor with attention shorter than post.
    assert (stated is None) == (folds == 2 and (not ship or share == 0.25))


def test_a_list_has_each_stages_own_cost():
    """33 stages for 16 layers; a reference makespan with (pre, attention, post) = (0, 6, 3)."""
    forward = [0, *[6, 3] * 16]
    backward = [2 * x for x in forward]
    config = abstract() | {"costs": {"forward": forward, "input_grad": backward, "weight_grad": 0}}
    config["pipeline"] = {"ranks": 4, "microbatches": 16}
    assert step_s(config) == 1773


def test_layers_default_to_one_per_rank():
    """Without a model and without the option there are P layers."""
    result = pipesim.simulate({"pipeline": {"ranks": 4, "microbatches": 8}, "schedule": "helix"})
    assert result.costs.stages == 9


@pytest.mark.parametrize("ranks", BANDS)
def test_speedups_from_operations_alone(ranks):
    """Within half a percent point of the figures worked out separately; more with longer sequences."""
    found = [flop_speedup(ranks, sequence) for sequence in LENGTHS]
    assert found == pytest.approx(BANDS[ranks], abs=0.0055)  # two printed digits; 1.045 is printed as 1.05
    assert sorted(found) == found


@pytest.mark.parametrize("ranks", BANDS)
def test_speedup_over_1f1b_on_h20s(ranks):
    """A 7B model on 64 H20s: within 0.03 of what operations alone give, near the published 1.26 at 128k, and
    growing with the sequence. The excess over operations is the head, which 1F1B's last rank has on top.
    """
    found = []
    for sequence in LENGTHS:
        fixed = [f"model.sequence={sequence}", f"parallelism={{pipeline: {ranks}, tensor: 8, data: {8 // ranks}}}"]
        found.append(step_s(h20(*fixed, "schedule=1f1b")) / step_s(h20(*fixed)))
    assert found == pytest.approx(BANDS[ranks], abs=0.03)
    assert sorted(found) == found
    if ranks == 8:
        assert found[-1] == pytest.approx(1.26, abs=0.04)


def test_stash_is_the_same_on_every_rank():
    """After its forwards every rank keeps m (L/P) times what a layer leaves: 4 b s h / t elements, log-sum-exp and
    the shipped weights. Rank 0 has embedding outputs, token ids and final hidden states on top.
    """
    made = plan(h20())
    program, kept = made.program(), made.costs.sizes.activations
    forwards = program.kind == Kind.F
    held = np.bincount(program.rank[forwards], kept[program.stage[forwards]])
    m, s, h, t = 16, 131072, 4096, 8
    layer = 2 * 4 * s * h / t + 4 * s * 32 / t + 2 * (3 * h * h + 3 * h) / t
    # Sums of floats.
    assert held[1:] == pytest.approx([m * 4 * layer] * 7, rel=1e-12)
    assert held[0] - held[1] == pytest.approx(m * (2 * 2 * s * h / t + 8 * s), rel=1e-9)


def test_peaks_are_balanced_and_below_1f1bs():
    """Peaks of ranks 1.. differ only by what is recomputed just then; 1F1B's fall from rank to rank, and its first
    is above all of them, although each holds all 16 micro-batches here and at most 8 there.
    """
    peaks = {
        name: [r["memory"]["activations_bytes"] for r in pipesim.simulate(h20(f"schedule={name}")).metrics["ranks"]]
        for name in ("helix", "1f1b")
    }
    helix, plain = peaks["helix"], peaks["1f1b"]
    assert max(helix[1:]) / min(helix[1:]) < 1.03
    assert max(helix) < plain[0]
    assert plain[0] / plain[-1] > 3


@pytest.mark.parametrize("recompute", ["without-attention", "training"])
@pytest.mark.parametrize("ship", ["true", "false"])
def test_memory_returns_to_where_it_was(recompute, ship):
    """What a rank's ops take they give back, and never more than is there."""
    made = plan(h20(f"schedule.recompute={recompute}", f"schedule.ship_weights={ship}", "model.layers=8"))
    graph = made.graph()
    effects = activation_effects(graph, made.costs.sizes)
    for start, end in zip(graph.starts[: graph.ranks], graph.starts[1 : graph.ranks + 1], strict=True):
        level = np.cumsum(effects.takes[start:end] - effects.gives[start:end])
        assert abs(level[-1]) <= 1e-6 * level.max()  # sums of floats
        assert level.min() >= -1e-6 * level.max()


def test_recomputation_precedes_every_backward_but_that_of_pure_attention():
    """With weights shipped, every stage repeats something; without, attention stages repeat nothing."""
    for ship, stages in (("true", 17), ("false", 9)):
        graph = plan(h20(f"schedule.ship_weights={ship}", "model.layers=8")).graph()
        assert len(np.unique(graph.stage[graph.kind == Kind.RECOMPUTE])) == stages


@pytest.mark.parametrize("network", ["ideal", "fifo", "fair"])
@pytest.mark.parametrize("p2p", ["overlapped", "blocking"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_everything_else_of_a_config_applies(network, p2p, zero):
    """Networks, blocking transfers, data parallelism and ZeRO need nothing special."""
    overrides = [f"simulation.network={network}", f"simulation.p2p={p2p}", f"training.zero={zero}"]
    parallel = "parallelism={pipeline: 4, tensor: 8, data: 2}"
    result = pipesim.simulate(h20(*overrides, parallel, "model.layers=8", "schedule.folds=1"))
    assert 0 < result.metrics["bubble_fraction"] < 0.5
    assert sum(result.metrics["time_breakdown"].values()) == pytest.approx(result.metrics["step_time_s"], rel=1e-9)


@pytest.mark.parametrize(
    ("override", "path", "says"),
    [
        ("model.layers=30", "schedule", "30 layers are not a multiple of 8 ranks: use 24 or 32 layers"),
        ("training.global_batch=24", "schedule", "use 16 or 32 micro-batches"),
        ("schedule.layers=16", "schedule", "layers is 16, but the model has 32"),
        ("training.partition=[4,4,4,4,4,4,4,4]", "training.partition", "cuts inside layers"),
        ("parallelism.pipeline=1", "schedule", "at least 2 ranks"),
    ],
)
def test_a_config_that_does_not_fit_is_told_why(override, path, says):
    """One problem, under its path."""
    with pytest.raises(ConfigError) as refused:
        h20(override)
    assert [(p.path, says in p.message) for p in refused.value.problems] == [(path, True)]


def test_a_list_of_the_wrong_length_is_refused():
    """A list needs 2L+1 entries."""
    with pytest.raises(ConfigError, match="33 entries"):
        pipesim.load(abstract() | {"costs": {"forward": [1, 2, 3]}})


def test_recomputation_without_attention_is_helixpipes_own():
    """As the schedule's option, or as what the training says: the same step."""
    own = pipesim.simulate(h20(), engine="compiled").metrics
    said = h20("schedule.recompute=training", "training.recompute=without-attention")
    assert pipesim.simulate(said, engine="compiled").metrics["step_time_s"] == own["step_time_s"]
    assert pipesim.simulate(said, engine="compiled").metrics["throughput"] == own["throughput"]
    assert pipesim.simulate(said, engine="compiled").metrics["memory"] == own["memory"]


def test_1f1b_can_recompute_without_attention():
    """Between nothing and everything, in time and in memory, and with operations of its own."""
    results = {}
    for how in ("none", "without-attention", "full"):
        config = h20("schedule=1f1b", f"training.recompute={how}")
        metrics = pipesim.simulate(config, engine="compiled").metrics
        results[how] = (
            metrics["step_time_s"],
            -metrics["memory"]["peak_bytes"],
            metrics["throughput"]["hfu"] / metrics["throughput"]["mfu"],
        )
    columns = list(zip(*results.values(), strict=True))
    assert all(list(column) == sorted(column) and len(set(column)) == 3 for column in columns)
