"""The ranks of a replay: processes that run schedules on PyTorch's pipeline runtime, with stages that sleep.

Started by `pipesim.interop.torch_runtime` as ``python -m pipesim.interop.torch_ranks DIRECTORY``, so that only
this process imports PyTorch. It reads ``jobs.json`` and every rank r writes ``rank{r}.json``.

The runtime, its communication (gloo) and its autograd are PyTorch's. Only the work is not: forward and backward
sleep for as long as they are told, so that many ranks can share few cores. What the stages send to each other is
the time of sending, and who receives it waits until the latency of the hop has passed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime
from torch.profiler import ProfilerActivity, profile


class Naps:
    """The sleeps of one rank in order, and when each started and ended."""

    def __init__(self, planned: list[tuple[str, int, float]]) -> None:
        self.planned = planned
        self.log: list[tuple[float, float]] = []

    def take(self, kind: str, stage: int, not_before: float = 0.0) -> None:
        """Sleep as planned next, from ``not_before`` or now if that is later."""
        planned_kind, planned_stage, seconds = self.planned[len(self.log)]
        if (kind, stage) != (planned_kind, planned_stage):
            raise RuntimeError(f"PyTorch ran {stage}{kind} where {planned_stage}{planned_kind} was planned")
        start = max(time.monotonic(), not_before)
        _sleep_until(start + seconds)
        self.log.append((start, time.monotonic()))


def _sleep_until(moment: float) -> None:
    while (left := moment - time.monotonic()) > 0:
        time.sleep(left)


class Work(torch.autograd.Function):
    """Sleeps forward and backward. Messages are (1, 1) and hold when they were sent, if they were."""

    @staticmethod
    def forward(ctx: Any, sent: Tensor, _weight: Tensor, stage: SleepingStage) -> Tensor:
        """Activations from the previous stage in, activations out."""
        ctx.stage = stage
        stage.naps.take("F", stage.index, float(sent) + stage.forward_hop_s)
        return torch.zeros_like(sent)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """The gradient from the next stage or the loss in; gradients of the activations and the weight out."""
        stage, (sent,) = ctx.stage, gradients
        stage.naps.take("I", stage.index, 0.0 if stage.is_last else float(sent) + stage.backward_hop_s)
        return torch.zeros_like(sent), torch.zeros_like(stage.weight), None


class SleepingStage(nn.Module):
    """One stage of the model; hops are seconds of latency into it, from the previous and from the next stage."""

    def __init__(self, index: int, stages: int, naps: Naps, hops_s: tuple[float, float] = (0.0, 0.0)) -> None:
        super().__init__()
        self.index, self.is_last = index, index == stages - 1
        self.naps = naps
        self.forward_hop_s, self.backward_hop_s = hops_s
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, sent: Tensor) -> Tensor:
        """A forward of one micro-batch."""
        output: Tensor = Work.apply(sent, self.weight, self)
        return output

    def weight_gradient(self) -> Any:
        """PyTorch asks at each backward for what to call when the weights' gradients are due."""
        return lambda: self.naps.take("W", self.index)


class DatedStage(PipelineStage):
    """PyTorch's stage, whose messages say when they were sent."""

    def get_fwd_send_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        """What sends a micro-batch's activations."""
        return _dated(super().get_fwd_send_ops(fwd_chunk_id))

    def get_bwd_send_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        """What sends a micro-batch's gradient."""
        return _dated(super().get_bwd_send_ops(bwd_chunk_id))


def _dated(sends: list[dist.P2POp]) -> list[dist.P2POp]:
    for send in sends:
        send.tensor.detach().fill_(time.monotonic())
    return sends


def pipeline_stage(stage: SleepingStage, stages: int, group: Any) -> Any:
    """The stage as PyTorch's runtime wants it, with the shapes and gradients of its messages declared."""
    given = torch.zeros(1, 1, dtype=torch.float64, requires_grad=stage.index > 0)
    returned = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    return DatedStage(
        stage,
        stage.index,
        stages,
        torch.device("cpu"),
        input_args=(given,),
        output_args=(returned,),
        group=group,
        dw_builder=stage.weight_gradient,
    )


class Pipeline:
    """The stages of one rank under one schedule, step by step."""

    def __init__(self, stages: list[SleepingStage], total: int, microbatches: int, group: Any = None) -> None:
        wrapped = [pipeline_stage(stage, total, group) for stage in stages]
        self.naps = stages[0].naps
        self.runtime = _PipelineScheduleRuntime(wrapped, microbatches, loss_fn=lambda output, _target: output.sum())
        batch = torch.zeros(microbatches, 1, dtype=torch.float64)
        self._arguments = (batch,) if any(stage.index == 0 for stage in stages) else ()
        self._target = batch if any(stage.is_last for stage in stages) else None

    def step(self) -> list[tuple[float, float]]:
        """Start and end of every nap of one step."""
        self.naps.log = []
        self.runtime.step(*self._arguments, target=self._target, return_outputs=False)
        return self.naps.log


def run_rank(rank: int, directory: str, task: dict[str, Any]) -> None:
    """One process: all jobs, one after the other."""
    torch.set_num_threads(1)
    place = Path(directory)
    dist.init_process_group("gloo", init_method=(place / "store").as_uri(), rank=rank, world_size=task["ranks"])
    alone = [dist.new_group([each]) for each in range(task["ranks"])][rank]
    results = [_run_job(rank, place, job, alone) for job in task["jobs"]]
    (place / f"rank{rank}.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


def _run_job(rank: int, place: Path, job: dict[str, Any], alone: Any) -> dict[str, Any]:
    pipeline = _pipeline(rank, place, job)
    calibration = _calibration(place, job["calibration"], alone)
    measured, overheads = [], []
    for _ in range(job["steps"] + 1):
        overheads.append(calibration.step())
        dist.barrier()
        measured.append(pipeline.step())
    profiled = _profiled_step(pipeline, f"{job['profile']}/rank{rank}.json.gz") if job["profile"] else None
    dist.barrier()
    return {"steps": measured[1:], "calibration": overheads[1:], "profiled": profiled}


def _pipeline(rank: int, place: Path, job: dict[str, Any]) -> Pipeline:
    naps = Naps([tuple(nap) for nap in job["naps"][rank]])
    own = [stage for stage, owner in enumerate(job["rank_of"]) if owner == rank]
    stages = [SleepingStage(stage, job["stages"], naps, tuple(job["hops_s"][stage])) for stage in own]
    pipeline = Pipeline(stages, job["stages"], job["microbatches"])
    pipeline.runtime._load_csv(str(place / job["csv"]), format=job["format"])
    return pipeline


def _calibration(place: Path, given: dict[str, Any], alone: Any) -> Pipeline:
    """One stage on this rank alone: nothing to wait for, so what is not sleep is the runtime's overhead."""
    microbatches = given["microbatches"]
    naps = [(kind, 0, given["nap_s"]) for _ in range(microbatches) for kind in "FIW"]
    pipeline = Pipeline([SleepingStage(0, 1, Naps(naps))], 1, microbatches, alone)
    pipeline.runtime._load_csv(str(place / given["csv"]))
    return pipeline


def _profiled_step(pipeline: Pipeline, file: str) -> list[tuple[float, float]]:
    """One step under PyTorch's profiler, which goes to a file."""
    dist.barrier()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        naps = pipeline.step()
    recorded.export_chrome_trace(file)
    return naps


def main(directory: str) -> None:
    """Run all ranks and wait for them; a rank that fails ends the others."""
    from torch.multiprocessing import start_processes

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    task = json.loads((Path(directory) / "jobs.json").read_text())
    method = "fork" if hasattr(os, "fork") else "spawn"
    start_processes(run_rank, args=(directory, task), nprocs=task["ranks"], start_method=method)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(sys.argv[1])
