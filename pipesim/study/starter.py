"""A config to start from: the fastest of the usual ways to train a model on some GPUs that fits in their memory.

Each candidate is simulated. Tensor parallelism stays inside a node, pipeline ranks divide the rest, data
parallelism with ZeRO-1 takes what is left; recomputation only where it does not fit without.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipesim import api
from pipesim.config.model import build_model
from pipesim.errors import PipesimError
from pipesim.hardware.gpu import GPU, build_gpu
from pipesim.result import Result
from pipesim.units import format_bytes
from pipesim.workload.model import Model
from pipesim.workload.parameters import parameters

NODE = 8
"""GPUs of a node; a smaller cluster is one node."""

BATCH_TOKENS = 2**21
"""Tokens of a step, about: what models of tens of billions of parameters are trained with (Brown et al. 2020,
arXiv 2005.14165, table 2.1: 0.5 to 3.2 million)."""

HELD_BYTES, SHARED_BYTES = 4, 12
"""Bytes per parameter that mixed precision with Adam needs at least: 16-bit weights and gradients on every replica,
and the optimizer's state, which replicas share with ZeRO-1 (arXiv 1910.02054, section 3.1)."""

ROOM = 0.94
"""Share of a GPU's memory that a plan may use: the rest is for what is not simulated."""

LARGEST = 16384
"""GPUs beyond which no fitting plan is looked for."""

Progress = Callable[[int, int], None]


class Wish(NamedTuple):
    """What was asked for: a model, a GPU, and how many of them; None for as few as fit."""

    model: str
    gpu: str
    gpus: int | None

    @classmethod
    def read(cls, model: str, cluster: str) -> Wish:
        """``cluster`` is a GPU's name, or a number of them as in ``64xh100-sxm-80gb``.

        Raises:
            PipesimError: the number is none that makes whole nodes.
        """
        match = re.fullmatch(r"(\d+)x(.+)", cluster)
        if match is None:
            return cls(model, cluster, None)
        count = int(match[1])
        if not 1 <= count <= LARGEST or (count > NODE and count % NODE):
            allowed = f"1 to {NODE}, or a multiple of {NODE} up to {LARGEST}"
            raise PipesimError(f"{cluster}: cannot make nodes of {count} GPUs; allowed: {allowed}")
        return cls(model, match[2], count)


@dataclass(frozen=True, eq=False)
class Starter:
    """The chosen plan, as the data of a config, and its simulation."""

    config: dict[str, Any]
    result: Result

    @property
    def fits(self) -> bool:
        """Whether it leaves some memory free for what an allocator cannot use."""
        memory = self.result.metrics["memory"]
        return bool(memory["peak_bytes"] <= ROOM * memory["capacity_bytes"])

    @property
    def step_s(self) -> float:
        """Step time."""
        step_s: float = self.result.metrics["step_time_s"]
        return step_s


def starter(wish: Wish, progress: Progress | None = None) -> Starter:
    """The fastest plan that fits on the GPUs asked for, or on as few of them as possible.

    ``progress`` is called with how many candidates are done, and of how many.

    Raises:
        ConfigError: the model or the GPU is unknown.
        PipesimError: nothing fits; the message says what comes closest, and on how many GPUs it would.
    """
    search = _Search(build_model(wish.model, Path()), build_gpu(wish.gpu), wish)
    if wish.gpus is None:
        return _with_chunks(search.smallest(progress))
    plans = search.plans(wish.gpus, progress)
    best = _fastest(plans)
    if best is None:
        raise PipesimError(search.nothing_fits(wish.gpus, plans))
    return _with_chunks(best)


class Split(NamedTuple):
    """GPUs, and how many ways each axis is split."""

    gpus: int
    tensor: int
    pipeline: int
    expert: int

    @property
    def data(self) -> int:
        """Replicas."""
        return self.gpus // (self.tensor * self.pipeline)

    def state_bytes(self, parameters: int) -> float:
        """What a GPU holds of weights, gradients and optimizer state at least: its even share of all."""
        own = parameters / (self.tensor * self.pipeline)
        return own * (HELD_BYTES / self.expert + SHARED_BYTES / self.data)


@dataclass(frozen=True)
class _Search:
    """Everything that the candidates have in common."""

    model: Model
    gpu: GPU
    wish: Wish

    def plans(self, gpus: int, progress: Progress | None) -> list[Starter]:
        """Every split that can be and may fit, each with as little recomputation as does."""
        splits, found = self.likely(gpus), []
        for index, split in enumerate(splits):
            plan = self.plan(split)
            found += [plan] if plan is not None else []
            if progress is not None:
                progress(index + 1, len(splits))
        return found

    def smallest(self, progress: Progress | None) -> Starter:
        """The fastest plan on the smallest number of GPUs, doubling from one node, on which any fits."""
        gpus = self.enough()
        best = _fastest(self.plans(gpus, progress)) if gpus else None
        if best is None:
            raise PipesimError(f"{self.wish.model} fits on no {LARGEST} x {self.wish.gpu} in any of the usual ways")
        return best

    def enough(self) -> int | None:
        """The smallest number of GPUs, doubling from one node, on which anything fits; None for too many."""
        gpus = NODE
        while gpus <= LARGEST and not self.fits_on(gpus):
            gpus *= 2
        return gpus if gpus <= LARGEST else None

    def fits_on(self, gpus: int) -> bool:
        """Whether any split fits with full recomputation, the leanest; the likeliest are tried first."""
        plans = (_simulated(self.config(split, "full")) for split in sorted(self.likely(gpus), key=self.least_bytes))
        return any(plan is not None and plan.fits for plan in plans)

    def likely(self, gpus: int) -> list[Split]:
        """Splits whose state alone leaves room."""
        return [split for split in self.splits(gpus) if self.least_bytes(split) <= self.room_bytes]

    def nothing_fits(self, gpus: int, plans: Sequence[Starter]) -> str:
        """What comes closest, and how many GPUs would do."""
        name, enough = f"{gpus}x{self.wish.gpu}", self.enough()
        hint = f"; it fits on {enough}x{self.wish.gpu}" if enough else ""
        peaks = [plan.result.metrics["memory"]["peak_bytes"] for plan in plans]
        need = min(peaks, default=min(self.least_bytes(split) for split in self.splits(gpus)))
        short = f"it needs {format_bytes(need)} on some GPU, with {format_bytes(self.room_bytes)} to use"
        return f"{self.wish.model} does not fit on {name}: {short}{hint}"

    @property
    def room_bytes(self) -> float:
        """What a plan may use of a GPU's memory."""
        return ROOM * self.gpu.memory_bytes

    def least_bytes(self, split: Split) -> float:
        """What some GPU needs at least, however little it holds beside its state."""
        return split.state_bytes(parameters(self.model))

    def splits(self, gpus: int) -> Iterator[Split]:
        """Tensor ranks within a node, pipeline ranks over the rest, experts over replicas."""
        for tensor in (1, 2, 4, 8):
            if min(gpus, NODE) % tensor == 0:
                rest = gpus // tensor
                for pipeline in (d for d in range(1, min(rest, self.model.layers) + 1) if rest % d == 0):
                    yield Split(gpus, tensor, pipeline, 1)
                    if self.model.moe is not None and rest // pipeline % NODE == 0:
                        yield Split(gpus, tensor, pipeline, NODE)

    def plan(self, split: Split) -> Starter | None:
        """The plan with as little recomputation as fits, or the leanest; None where it cannot be at all."""
        plan = None
        for recompute in ("none", "selective", "full"):
            plan = _simulated(self.config(split, recompute))
            if plan is None or plan.fits:
                break
        return plan

    def config(self, split: Split, recompute: str) -> dict[str, Any]:
        """A plan as the data of a config."""
        precision = "bf16" if "bf16" in self.gpu.peak_flops else "fp16"
        parallelism = {"pipeline": split.pipeline, "tensor": split.tensor, "data": split.data}
        return {
            "model": self.wish.model,
            "cluster": {"gpu": self.wish.gpu, "gpus_per_node": min(split.gpus, NODE), "nodes": -(-split.gpus // NODE)},
            "parallelism": parallelism | ({"expert": split.expert} if split.expert > 1 else {}),
            "schedule": {"name": "1f1b"},
            "training": {
                "software": "megatron-core",
                "micro_batch": 1,
                "global_batch": self.batch(split.gpus),
                "precision": precision,
                "recompute": recompute,
                "zero": 1 if split.data > 1 else 0,
            },
        }

    def batch(self, gpus: int) -> int:
        """Sequences per step: a multiple of the GPUs, so that any number of replicas divides it."""
        wanted = max(1.0, BATCH_TOKENS / (self.model.sequence * gpus))
        return int(gpus * 2 ** round(math.log2(wanted)))


def _simulated(config: dict[str, Any]) -> Starter | None:
    try:
        return Starter(config, api.simulate(config, engine="compiled"))
    except PipesimError:
        return None


def _fastest(plans: Iterable[Starter]) -> Starter | None:
    return min((plan for plan in plans if plan.fits), key=lambda plan: plan.step_s, default=None)


def _with_chunks(plan: Starter) -> Starter:
    """The plan with two chunks per rank where that is possible, fits and is faster."""
    chunked = _simulated({**plan.config, "schedule": {"name": "interleaved-1f1b", "chunks": 2}})
    return _fastest([plan] if chunked is None else [plan, chunked]) or plan
