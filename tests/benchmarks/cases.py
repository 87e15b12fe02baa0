"""What is measured, each beside its reference loop on the same ops."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from pipesim import api
from pipesim.engine import compiled, event
from pipesim.engine.batch import Batch
from pipesim.lowering.bind import bind
from pipesim.lowering.lower import Lowering, lower
from pipesim.lowering.replicate import replicate, slowed
from pipesim.metrics.busy import measure
from pipesim.study.structure import Structure
from tests.benchmarks import reference
from tests.benchmarks.measure import best, peak_bytes, per_call, process_seconds

CONFIG = Path(__file__).parents[2] / "configs" / "abstract_4x8.yaml"


@dataclass(frozen=True)
class Row:
    """One line of the table. ``met`` is None where there is no target."""

    what: str
    size: str
    result: str
    target: str = ""
    met: bool | None = None


def config(schedule, ranks, microbatches, chunks=None, **simulation):
    """Unequal durations and hops that take time, on the compiled engine."""
    options = {} if chunks is None else {"chunks": chunks}
    return {
        "pipeline": {"ranks": ranks, "microbatches": microbatches},
        "costs": {"forward": 1.0, "input_grad": 1.1, "weight_grad": 0.9, "p2p": 0.05},
        "schedule": {"name": schedule, **options},
        "simulation": {"engine": "compiled", **simulation},
    }


@cache
def graph(schedule, ranks, microbatches, chunks=None):
    """A bound graph."""
    return api.plan(config(schedule, ranks, microbatches, chunks)).graph()


def named(schedule, ranks, microbatches, chunks=None):
    """A size as text."""
    return f"{schedule}, P={ranks}, M={microbatches}" + (f", {chunks} chunks" if chunks else "")


ENGINE_SIZES = [
    ("1f1b", 64, 1024, None),
    ("1f1b", 128, 2048, None),
    ("1f1b", 512, 2048, None),
    ("interleaved-1f1b", 32, 512, 4),
    ("interleaved-1f1b", 128, 2048, 4),
]
"""From 131,072 to 2,097,152 ops."""


def engine(schedule, ranks, microbatches, chunks):
    """The compiled engine against bare replays of the prebuilt graph."""
    bound = graph(schedule, ranks, microbatches, chunks)
    single = reference.SingleReplay(bound)
    ours, cursor, lone = best([lambda: compiled.run(bound), lambda: reference.cursor_replay(bound), single])
    rate = len(bound) / ours / 1e6
    result = (
        f"{rate:.0f} M ops/s; {cursor / ours:.2f} of the bare replay, {lone / ours:.2f} of one for single dependencies"
    )
    return Row("compiled engine", named(schedule, ranks, microbatches, chunks), result, "0.6", cursor / ours >= 0.6)


def end_to_end(schedule, ranks, microbatches, chunks):
    """Config to all metrics, against the bare replay; and its peak memory."""
    bound, asked = graph(schedule, ranks, microbatches, chunks), config(schedule, ranks, microbatches, chunks)
    ours, bare = best([lambda: api.simulate(asked), lambda: reference.cursor_replay(bound)], rounds=4)
    memory = peak_bytes(lambda: api.simulate(asked)) / len(bound)
    result = f"{ours:.2f} s, {ours / bare:.1f} times the bare replay; {memory:.0f} bytes per op"
    met = ours / bare <= 10 and memory < 300
    return Row("config to metrics", named(schedule, ranks, microbatches, chunks), result, "10 times, 300 bytes", met)


def rebinding():
    """New costs on one structure: bound, replayed, step time read off."""
    plan = api.plan(config("1f1b", 8, 64))
    structure = Structure(plan.program(), plan.costs, plan.lowering(plan.program()))
    variants = [
        replace(plan.costs, times=replace(plan.costs.times, forward=plan.costs.times.forward * f)) for f in (1, 2)
    ]
    seconds = per_call(lambda: [structure.makespan(costs) for costs in variants], 500) / 2
    return Row(
        "new costs on one structure", named("1f1b", 8, 64), f"{1 / seconds:,.0f} /s", "20,000 /s", seconds <= 5e-5
    )


def batch(scenarios):
    """Many durations over one graph, against a bare loop over the bare replay and one over a given order."""
    bound = graph("1f1b", 16, 256)
    durations = bound.duration + np.random.default_rng(0).integers(0, 10**9, (scenarios, len(bound)))
    ready, order = Batch(bound), reference.evaluation_order(bound)
    ours, cursor, ordered = best([
        lambda: ready.makespans(durations),
        lambda: reference.batch_replay(bound, durations),
        lambda: reference.ordered_batch_replay(bound, order, durations),
    ])  # fmt: skip
    rate, ratio = durations.size / ours / 1e6, min(cursor, ordered) / ours
    result = f"{rate:.0f} M scenario-ops/s; {ratio:.2f} of the faster bare loop"
    return Row(
        f"{scenarios} duration vectors", named("1f1b", 16, 256), result, "0.5, 50 M/s", ratio >= 0.5 and rate >= 50
    )


def events(schedule, ranks, microbatches, chunks=None):
    """The event engine against bare SimPy loops, of processes and of callbacks, and against the compiled engine."""
    bound = graph(schedule, ranks, microbatches, chunks)
    loops = [lambda: reference.simpy_replay(bound), lambda: reference.simpy_callbacks(bound)]
    assert event.run(bound).end.tolist() == compiled.run(bound).end.tolist() == loops[0]() == loops[1]()
    ours, *bare, fast = best([lambda: event.run(bound), *loops, lambda: compiled.run(bound)])
    ratio = ours / min(bare)
    result = (
        f"{len(bound) / ours / 1e3:.0f} k ops/s; {ratio:.2f} of the faster bare SimPy loop; "
        f"{ours / fast:,.0f} times compiled"
    )
    return Row("event engine", named(schedule, ranks, microbatches, chunks), result, "1.5", ratio <= 1.5)


def perturbed():
    """4096 ranks, each a little slower than it should be: built, replicated, evaluated, measured."""
    plan = api.plan(config("interleaved-1f1b", 16, 64, 2))
    stages = plan.costs.stages
    extra = {"reduce_grad": np.full(stages, 0.5), "unshard": np.full(stages, 0.5), "optimizer": np.full(stages, 0.1)}
    costs = replace(plan.costs, times=replace(plan.costs.times, **extra))

    def run():
        bound = bind(lower(plan.program(), costs, Lowering(zero=1)), costs)
        factors = 1 + 0.1 * np.random.default_rng(0).random(16 * 256)
        timeline = compiled.run(slowed(replicate(bound, 256), factors))
        measure(timeline)
        return len(timeline.graph)

    ops, seconds, memory = run(), best([run], rounds=3)[0], peak_bytes(run)
    result = f"{ops:,} ops: {seconds:.2f} s, {memory / 1e9:.2f} GB"
    met = seconds < 2 and memory < 4e9
    return Row("4096 unequal ranks", "interleaved-1f1b, P=16, DP=256, M=64, 2 chunks", result, "2 s, 4 GB", met)


def extrapolation():
    """A million micro-batches against a thousand, and against a thousand in full."""
    sizes = [config("1f1b", 8, m, extrapolate=True) for m in (10**3, 10**6)]
    few, many, full = best([lambda c=c: api.simulate(c) for c in (*sizes, config("1f1b", 8, 10**3))])
    result = f"{many * 1e3:.0f} ms, {many / few:.2f} of M=1000; M=1000 in full {full * 1e3:.0f} ms"
    return Row("extrapolated step", named("1f1b", 8, 10**6), result, "as M=1000", many <= 1.5 * few)


def start_up():
    """Processes, beyond an empty one."""
    for arguments, target in ((("--help",), 0.15), (("run", str(CONFIG)), 1.0)):
        seconds = process_seconds("-m", "pipesim.cli", *arguments)
        what = f"pipesim {arguments[0]}"
        yield Row(
            what,
            "a small config" if len(arguments) > 1 else "",
            f"{seconds:.2f} s CPU",
            f"{target} s",
            seconds < target,
        )


def growth():
    """How evaluating grows with ranks, micro-batches and chunks."""
    for name, sizes in (
        ("P", [("1f1b", p, 512, None) for p in (8, 32, 128, 512)]),
        ("M", [("1f1b", 64, m, None) for m in (128, 512, 2048, 8192)]),
        ("chunks", [("interleaved-1f1b", 32, 512, v) for v in (1, 2, 4, 8)]),
    ):
        for size in sizes:
            bound, asked = graph(*size), config(*size)
            ours, whole = best([lambda b=bound: compiled.run(b), lambda a=asked: api.simulate(a)], rounds=3)
            result = (
                f"engine {ours / len(bound) * 1e9:.0f} ns, config to metrics {whole / len(bound) * 1e9:.0f} ns per op"
            )
            yield Row(f"growth with {name}", f"{named(*size)}: {len(bound):,} ops", result)


def table():
    """All rows, one by one."""
    for size in ENGINE_SIZES:
        yield engine(*size)
    yield end_to_end("1f1b", 512, 2048, None)
    yield end_to_end("interleaved-1f1b", 128, 2048, 4)
    yield rebinding()
    yield from (batch(scenarios) for scenarios in (32, 1000))
    yield events("1f1b", 16, 256)
    yield events("interleaved-1f1b", 16, 256, 4)
    yield perturbed()
    yield extrapolation()
    yield from start_up()
    yield from growth()
