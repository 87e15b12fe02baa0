"""Measure what one GPU of a plan runs, on this machine's CPU or GPU, with PyTorch."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pipesim import api
from pipesim.costs.layer import LayerCosts
from pipesim.costs.phases import LayerTimes
from pipesim.errors import ConfigError, PipesimError, Problem
from pipesim.interop.torch_runtime import check_torch
from pipesim.study.calibration import EMBEDDING, HEAD, LAYER, MIXTURE, Calibration, Kernel, Part
from pipesim.workload import memory

if TYPE_CHECKING:
    from pipesim.calibration.device import Device
    from pipesim.calibration.local import Local
    from pipesim.calibration.parts import Measured
    from pipesim.config import Config
    from pipesim.config.document import ClusterConfig
    from pipesim.hardware import Cluster
    from pipesim.study.kernel_list import Listed

REPEATS = 20
MEASURED = ("bf16", "fp16", "fp32")
"""Precisions that PyTorch's own layers compute in."""

Progress = Callable[[int, int], None]


class CalibrationError(PipesimError):
    """A piece of a model cannot be measured on this device."""


def calibrate(
    config: Config | api.Source,
    *,
    device: str | None = None,
    repeats: int = REPEATS,
    fewer_rows: bool = False,
    progress: Progress | None = None,
) -> Calibration:
    """Measure one GPU's share of a config's model: layers, embedding and head by phase, and their kernels.

    ``device``: ``cpu`` or ``cuda``; CUDA where there is one when None. ``fewer_rows``: matrix products with fewer
    rows too, which `Calibration.fit` needs to tell what bounds them. ``progress`` is told how much is done of how much.

    Raises:
        ConfigError: the config is none of a model on a cluster, or asks for what PyTorch cannot run.
        TorchError, PipesimError: PyTorch or the device is missing, or the device's memory is too small.
    """
    if isinstance(config, str | os.PathLike | Mapping):
        config = api.load(config)
    from pipesim.config.document import ClusterConfig

    if not isinstance(config, ClusterConfig):
        allowed = "a config with model and cluster"
        raise ConfigError([Problem("model", "is missing: there is nothing to measure", allowed=allowed)], config.source)
    prices = LayerCosts(config.build_model(), _of_usual_gpus(config), config.build_layout(), config.build_training())
    if prices.training.precision not in MEASURED:
        problem = Problem(
            "training.precision", "is not measured: PyTorch has no such layers", prices.training.precision
        )
        raise ConfigError([replace(problem, allowed=", ".join(MEASURED))], config.source)
    check_torch()
    return _Calibrating(prices, config, device, repeats, progress).run(fewer_rows)


def _of_usual_gpus(config: ClusterConfig) -> Cluster:
    """The config's cluster without the allowance for its slowest GPU: one is measured, and taken to be a usual one."""
    cluster = config.build_cluster()
    return replace(cluster, gpu=replace(cluster.gpu, spread=0.0))


class _Calibrating:
    """One calibration under way."""

    def __init__(
        self, prices: LayerCosts, config: ClusterConfig, device: str | None, repeats: int, progress: Progress | None
    ) -> None:
        from pipesim.calibration.device import open_device
        from pipesim.calibration.local import Local

        self.prices, self.config, self.repeats, self.progress = prices, config, repeats, progress
        self.device: Device = open_device(device)
        self.local: Local = Local(prices.model, prices.training, prices.shard, self.device.torch_device)

    def run(self, fewer_rows: bool) -> Calibration:
        """Everything, one after the other."""
        from pipesim.study.kernel_list import KernelList

        unfused = replace(self.prices.training, fused_gradients=False)
        products = LayerCosts(self.prices.model, self.prices.cluster, self.prices.layout, unfused)
        listed = KernelList(products, self.local, fewer_rows).all()
        parts = {name: partial(self._part, name) for name in self._names()}
        kernels = [partial(self._kernel, each) for each in listed]
        done = list(self._reported([*parts.values(), *kernels]))
        return Calibration(
            config=self.config.resolved(),
            model=self.prices.model,
            training=self.prices.training,
            gpu=self.prices.gpu,
            machine={**self.device.describe(), "date": datetime.date.today().isoformat()},
            repeats=self.repeats,
            parts=done[: len(parts)],
            kernels=done[len(parts) :],
        )

    def _reported(self, works: Sequence[Callable[[], Any]]) -> Iterator[Any]:
        """Results of all ``works``, and how far it is."""
        for number, work in enumerate(works):
            if self.progress is not None:
                self.progress(number, len(works))
            with _enough_memory():
                yield work()

    def _names(self) -> list[str]:
        model = self.prices.model
        layers = {MIXTURE if model.is_mixture(layer) else LAYER for layer in range(model.layers)}
        return [EMBEDDING, *sorted(layers), *([HEAD] if model.head != "none" else [])]

    def _part(self, name: str) -> Part:
        measured, (times, size) = self._measured(name), self._predicted(name)
        predicted_s = {phase: _alone(times, phase) for phase in measured.times}
        return Part(name, measured.times, measured.kept_bytes, measured.recomputed_bytes, predicted_s, size)

    def _measured(self, name: str) -> Measured:
        from pipesim.calibration import parts

        if name == EMBEDDING:
            return parts.measure_embedding(self.local, self.device, self.repeats)
        if name == HEAD:
            return parts.measure_head(self.local, self.device, self.repeats)
        return parts.measure_layer(self.local, name == MIXTURE, self.device, self.repeats)

    def _predicted(self, name: str) -> tuple[LayerTimes, float]:
        """What the config's GPU would take, and the bytes that a forward would leave."""
        prices = self.prices
        arguments = (prices.training, prices.shard)
        if name == EMBEDDING:
            return prices.embedding(), memory.embedding_activations(prices.model, *arguments)
        if name == HEAD:
            return prices.head(), memory.head_activations(prices.model, *arguments)
        mixture = name == MIXTURE
        return prices.layer(mixture), memory.layer_activations(prices.model, mixture, *arguments)

    def _kernel(self, listed: Listed) -> Kernel:
        from pipesim.calibration.measure import sample

        samples = sample(self.device, listed.works(self.device.cache_bytes), self.repeats)
        told = {field.name: getattr(listed, field.name) for field in fields(listed) if field.name != "works"}
        return Kernel(samples=samples, **told)


def _alone(times: LayerTimes, phase: str) -> float:
    """Seconds of a phase without communication."""
    predicted = getattr(times, phase)
    return float(predicted.seconds - predicted.collective_s)


@contextmanager
def _enough_memory() -> Iterator[None]:
    """PyTorch's own words where the device's memory is too small, and a way out."""
    try:
        yield
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        first = str(error).splitlines()[0]
        raise CalibrationError(
            f"{first}\nmore tensor parallelism or a smaller micro-batch makes pieces smaller"
        ) from None
