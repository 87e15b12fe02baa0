"""What was published, computed from a simulated step, so that the two can be compared.

Rates are turned into the conventions of their papers: ``hardware_flops_per_gpu`` is Narayanan et al. 2021 (arXiv
2104.04473), equation 3, with full recomputation counted; ``mfu`` is Korthikanti et al. 2022 (arXiv 2205.05198),
appendix A, over the GPU's peak.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipesim.study.measurements import Measurement

if TYPE_CHECKING:
    from pipesim.config import Config
    from pipesim.config.document import ClusterConfig
    from pipesim.result import Result
    from pipesim.workload.model import Model

RATES = ("tokens_per_s_per_gpu", "samples_per_s", "hardware_flops_per_gpu", "mfu")
TIMES = ("step_time_s", "layer_s", "layer_forward_s", "layer_backward_s")
BYTES = ("state_bytes", "activation_bytes", "peak_allocated_bytes", "peak_reserved_bytes")

_FORWARD, _BACKWARD = ("F",), ("RECOMPUTE", "B", "I", "W")


@dataclass(frozen=True)
class Run:
    """A simulated run: its config and its result."""

    config: ClusterConfig
    result: Result

    @property
    def step_s(self) -> float:
        """Step time."""
        return float(self.result.metrics["step_time_s"])

    def rank(self, number: int) -> dict[str, Any]:
        """The metrics of one pipeline rank's memory."""
        memory: dict[str, Any] = self.result.metrics["ranks"][number]["memory"]
        return memory


def simulate(measurement: Measurement) -> Run:
    """The run that a measurement describes."""
    from pipesim import api

    return _run(api.load(measurement.source.config, measurement.overrides))


def value(measurement: Measurement, run: Run) -> float:
    """The measured quantity, as the simulation has it."""
    return _QUANTITIES[measurement.quantity](run)


def is_memory(quantity: str) -> bool:
    """Whether a quantity is bytes rather than a time or a rate."""
    return quantity in BYTES


def time_error(quantity: str, predicted: float, measured: float) -> float:
    """Relative error, positive when the prediction is too slow (or too large, for bytes)."""
    return measured / predicted - 1 if quantity in RATES else predicted / measured - 1


def _run(config: Config) -> Run:
    from pipesim import api

    return Run(config, api.simulate(config))  # type: ignore[arg-type]


def _tokens_per_s_per_gpu(run: Run) -> float:
    return float(run.result.metrics["throughput"]["tokens_per_s_per_gpu"])


def _samples_per_s(run: Run) -> float:
    return float(run.result.metrics["throughput"]["samples_per_s"])


def _hardware_flops_per_gpu(run: Run) -> float:
    return 4 / 3 * _gpt_flops(run, 4) / run.step_s / run.config.parallelism.gpus


def _mfu(run: Run) -> float:
    peak = run.config.build_cluster().gpu.peak(run.config.training.precision)
    return _gpt_flops(run, 3) / run.step_s / run.config.parallelism.gpus / peak


def _gpt_flops(run: Run, passes: int) -> float:
    """72 B l s h^2 (1 + s/(6h) + V/(4 passes h l)): the head is not recomputed."""
    model: Model = run.config.build_model()
    layers, hidden, sequence = model.layers, model.hidden, model.sequence
    relative = 1 + sequence / (6 * hidden) + model.vocab / (4 * passes * hidden * layers)
    return 72.0 * run.config.training.global_batch * layers * sequence * hidden**2 * relative


def _layer_s(kinds: Sequence[str]) -> Callable[[Run], float]:
    """Seconds of one more layer in every micro-batch: two layers less one, so that both ends of the model drop out."""

    def seconds(run: Run) -> float:
        one, two = (_compute_s(_run(_with_layers(run.config, layers)), kinds) for layers in (1, 2))
        return (two - one) / run.config.microbatches

    return seconds


def _with_layers(config: ClusterConfig, layers: int) -> Config:
    from pipesim import api

    return api.load(config.resolved(), [f"model.layers={layers}"])


def _compute_s(run: Run, kinds: Sequence[str]) -> float:
    frame = run.result.timeline
    chosen = frame[frame["kind"].isin(kinds)]
    return float((chosen["end_s"] - chosen["start_s"]).sum())


def _state_bytes(run: Run) -> float:
    """Weights, gradients and optimizer, mean over pipeline ranks."""
    ranks = [run.rank(number) for number in range(run.config.ranks)]
    total = sum(each[f"{name}_bytes"] for each in ranks for name in ("weights", "gradients", "optimizer"))
    return float(total) / len(ranks)


def _activation_bytes(run: Run) -> float:
    """What forwards of transformer layers leave behind on the first rank at its fullest, nothing else: Korthikanti et
    al. 2022, equation 6 and section 4.2.3, without the embedding, the head, or what one backward brings back.
    """
    from pipesim.workload.memory import layer_activations
    from pipesim.workload.shard import Shard

    model, training, parallel = run.config.build_model(), run.config.build_training(), run.config.parallelism
    shard = Shard(parallel.tensor, parallel.context, parallel.expert, run.config.sequence_parallel)
    share = run.result.metrics["ranks"][0]["peak_in_flight"]
    return float(share * model.layers / run.config.ranks * layer_activations(model, False, training, shard))


def _peak_allocated_bytes(run: Run) -> float:
    """What tensors take at most on any rank: without the CUDA context, NCCL and what the allocator cannot use."""
    allowance, gpus = run.config.build_cluster().allowance, run.config.parallelism.gpus
    held = float(run.result.metrics["memory"]["peak_bytes"]) / (1 + allowance.fragmentation)
    return held - allowance.outside_bytes(gpus)


def _peak_reserved_bytes(run: Run) -> float:
    """What PyTorch's allocator reserves at most on any rank, at least: it may keep more than it needs."""
    allowance, gpus = run.config.build_cluster().allowance, run.config.parallelism.gpus
    return float(run.result.metrics["memory"]["peak_bytes"]) - allowance.outside_bytes(gpus)


_QUANTITIES: dict[str, Callable[[Run], float]] = {
    "step_time_s": lambda run: run.step_s,
    "tokens_per_s_per_gpu": _tokens_per_s_per_gpu,
    "samples_per_s": _samples_per_s,
    "hardware_flops_per_gpu": _hardware_flops_per_gpu,
    "mfu": _mfu,
    "layer_s": _layer_s((*_FORWARD, *_BACKWARD)),
    "layer_forward_s": _layer_s(_FORWARD),
    "layer_backward_s": _layer_s(_BACKWARD),
    "state_bytes": _state_bytes,
    "activation_bytes": _activation_bytes,
    "peak_allocated_bytes": _peak_allocated_bytes,
    "peak_reserved_bytes": _peak_reserved_bytes,
}
