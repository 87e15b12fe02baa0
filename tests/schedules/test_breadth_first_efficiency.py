"""The theoretical efficiencies of arXiv 2211.05953, panel without network overlap, as digitised from its figure.

Eight devices, one sample per micro-batch. Without overlap every exchange holds the compute streams; each loop
over the pipeline costs 1/64 of a sample's compute, half of it forwards and half backwards; reducing the gradients
costs as much as six samples, spread over the devices, after all compute.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from replay import UNIT, costs

from pipesim.engine import event
from pipesim.lowering.bind import bind
from pipesim.lowering.lower import Lowering, lower
from pipesim.schedules import Setting, create
from pipesim.schedules.sync import after_everything

SAMPLE = 3 * 8 * 128
"""Compute of one sample on one of the pipeline's devices: divisible by three passes, eight loops and 128 hops."""

LOOPED_8 = {1: 50.39, 2: 64.32, 4.375: 75.68, 8.75: 81.75}
LOOPED_2 = {1: 45.07, 2: 61.54, 8.75: 85.69}
NOT_LOOPED = {1: 37.87, 2.5: 60.04, 8: 82.05}
DATA_PARALLEL = {2: 25.0, 4: 40.0, 8: 57.14, 16: 72.73}


def efficiency(ranks, chunks, microbatches, reduction):
    """Ideal compute time over the simulated step time, in percent."""
    program = create("breadth-first", chunks=chunks).program(Setting(ranks, microbatches))
    part = SAMPLE // 3 // chunks
    priced = costs(program, part, part, part, SAMPLE // 128)
    whole = np.full(program.placement.stages, reduction / chunks * UNIT)
    priced = replace(priced, times=replace(priced.times, reduce_grad=whole))
    lowering = Lowering(p2p="blocking", synchronous=False, triggers=after_everything(program))
    return 100 * microbatches * SAMPLE / event.run(bind(lower(program, priced, lowering), priced)).makespan


SPOTS = [
    (chunks, samples, published)
    for chunks, curve in ((8, LOOPED_8), (2, LOOPED_2), (1, NOT_LOOPED))
    for samples, published in curve.items()
]


@pytest.mark.parametrize(("chunks", "samples_per_device", "published"), SPOTS)
def test_pipelines_land_on_the_published_curves(chunks, samples_per_device, published):
    """Within half a point: the figure adds bubble and hops, a replay also has hops inside the bubble."""
    found = efficiency(8, chunks, int(8 * samples_per_device), 6 * SAMPLE)
    assert found == pytest.approx(published, abs=0.5)


@pytest.mark.parametrize(("samples", "published"), DATA_PARALLEL.items())
def test_data_parallelism_lands_on_its_curve(samples, published):
    """One device per replica has no hops: exactly samples / (samples + 6), to the figure's two decimals."""
    assert efficiency(1, 1, samples, 6 * SAMPLE) == pytest.approx(published, abs=0.005)
