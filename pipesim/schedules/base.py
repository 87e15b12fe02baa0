"""What a schedule is: an order of compute ops per rank, its placement, its published theory and its source.

A schedule is a frozen dataclass whose fields are its options. It emits compute ops only (F, I, W, B), and OPT
where it steps the optimizer without a flush; communication, recomputation, sharding and memory are added by
lowering.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pipesim.errors import ScheduleError
from pipesim.ir.offloading import Offloading
from pipesim.ir.placement import Placement, linear
from pipesim.ir.program import OpLike, Program
from pipesim.ir.updates import WeightPolicy

Picoseconds = NDArray[np.int64]
Optimizer = Literal["synchronous", "post-validated"]


@dataclass(frozen=True)
class StepCosts:
    """The costs that a cost-driven schedule may look at, per stage of shape (S,): those of the mean micro-batch.

    Times are integer picoseconds; ``hop`` is one transfer between neighbouring ranks. ``activations`` and
    ``weight_grad_activations`` are bytes (or any unit) held after F, and still held between I and W.
    """

    forward: Picoseconds
    input_grad: Picoseconds
    weight_grad: Picoseconds
    hop: int
    activations: NDArray[np.float64]
    weight_grad_activations: NDArray[np.float64]

    @classmethod
    def unit(cls, stages: int) -> StepCosts:
        """F, I and W take one picosecond each, hops nothing; W keeps all activations."""
        one = np.ones(stages, np.int64)
        return cls(one, one, one, 0, np.ones(stages), np.ones(stages))

    def averaged(self) -> StepCosts:
        """The same costs with all stages alike: each as long and as large as their mean."""
        return replace(
            self,
            forward=_level(self.forward),
            input_grad=_level(self.input_grad),
            weight_grad=_level(self.weight_grad),
            activations=np.full_like(self.activations, self.activations.mean()),
            weight_grad_activations=np.full_like(self.weight_grad_activations, self.weight_grad_activations.mean()),
        )


def _level(times: Picoseconds) -> Picoseconds:
    return np.full_like(times, round(times.mean()))


@dataclass(frozen=True)
class Setting:
    """What a schedule is asked to schedule: P ranks, M micro-batches, and the costs if any are known."""

    ranks: int
    microbatches: int
    costs: StepCosts | None = None

    def costs_for(self, stages: int) -> StepCosts:
        """The costs, or unit costs where none are known."""
        return self.costs if self.costs is not None else StepCosts.unit(stages)


@dataclass(frozen=True)
class Size:
    """Ranks, stages and micro-batches of a program; ``str`` says how its ops come about."""

    ranks: int
    stages: int
    microbatches: int

    @property
    def ops(self) -> int:
        """F, I and W ops, a whole B counted as two."""
        return 3 * self.stages * self.microbatches

    def __str__(self) -> str:
        return (
            f"{self.stages} stages x {self.microbatches} micro-batches x F, I and W = {self.ops:.3g} ops"
            f" on {self.ranks} ranks"
        )


@dataclass(frozen=True)
class Theory:
    """Published closed forms, evaluated for one setting.

    ``bubble_fraction`` as in the vocabulary (1 - busy / (P C)); ``peak_in_flight`` per rank, in units of one
    rank's whole share, or its maximum over ranks as a single entry. None where the source gives no formula.
    """

    source: str
    bubble_fraction: float | None = None
    peak_in_flight: Sequence[float] | None = None


@dataclass(frozen=True)
class Schedule:
    """Base of all schedules. Subclasses add options as fields and fill in the class variables."""

    name: ClassVar[str] = ""
    aliases: ClassVar[tuple[str, ...]] = ()
    citation: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    """One line for people."""
    requires: ClassVar[str] = "any number of ranks and micro-batches"
    """Divisibility rules, for people."""
    bubble: ClassVar[str] = ""
    """Published bubble formula, for people."""
    memory: ClassVar[str] = ""
    """Published peak of activations in flight, for people."""
    flush: ClassVar[bool] = True
    """Whether the pipeline runs empty before weights change; if not, programs hold the optimizer's steps."""

    def check(self, ranks: int, microbatches: int) -> None:
        """Raise `ScheduleError` naming the numbers that would do, when these cannot be scheduled."""

    def placement(self, ranks: int) -> Placement:
        """Which rank holds which stage; one stage per rank unless overridden."""
        return linear(ranks)

    def chunks_per_rank(self) -> int:
        """Stages per rank on one route, known before the number of ranks is."""
        return 1

    def stages(self, ranks: int) -> int:
        """Number of stages S, known without building the placement."""
        return ranks * max(self.chunks_per_rank(), 1)

    def size(self, ranks: int, microbatches: int) -> Size:
        """How large its programs are, known without generating them."""
        return Size(ranks, self.stages(ranks), microbatches)

    def fit(self, layers: int) -> Schedule:
        """The schedule for a model of so many layers; most take any.

        Raises:
            ScheduleError: it was set up for another number of layers.
        """
        return self

    def routes(self, ranks: int, microbatches: int) -> NDArray[np.int32]:
        """Route of every micro-batch, shape (M,); all on the only one unless overridden."""
        return np.zeros(microbatches, np.int32)

    def order(self, rank: int, setting: Setting) -> Iterable[OpLike]:
        """Ops of one rank, in order: ops, pairs or tokens. Either this or `program` is to be written."""
        raise NotImplementedError(f"{type(self).__name__} defines neither order() nor program()")

    def program(self, setting: Setting) -> Program:
        """The ops of all ranks. Schedules that work on arrays, or decide for all ranks at once, override this."""
        self.check(setting.ranks, setting.microbatches)
        orders = [self.order(rank, setting) for rank in range(setting.ranks)]
        placement = self.placement(setting.ranks)
        return Program.from_orders(placement, orders, self.routes(setting.ranks, setting.microbatches))

    def theory(self, setting: Setting) -> Theory | None:
        """Published closed forms for this setting; None outside their domain."""
        return None

    def gradient_triggers(self, program: Program) -> NDArray[np.int64] | None:
        """The op after which a stage's gradient reduction may start on a rank, shape (P, S), -1 where not held.

        None for the usual rule: after the stage's last backward on that rank.
        """
        return None

    @property
    def blocking_reductions(self) -> bool:
        """Whether the compute stream waits for each gradient reduction."""
        return False

    @property
    def paired_exchanges(self) -> bool:
        """Whether blocking transfers come once after a forward and a backward together, not after each."""
        return False

    @property
    def weight_policy(self) -> WeightPolicy:
        """How backwards get at the weights of their forwards; matters without a flush only."""
        return WeightPolicy.STASH

    @property
    def second_engine(self) -> bool:
        """Whether W and OPT run beside the compute stream, on an engine of their own."""
        return False

    @property
    def offloading(self) -> Offloading | None:
        """Which activations go to host memory between forward and backward, if any."""
        return None

    @property
    def searched(self) -> bool:
        """Whether the order comes out of a search, which may find another one for more micro-batches."""
        return False

    @property
    def synchronous_optimizer(self) -> bool:
        """Whether all ranks wait for each other before the optimizer step."""
        return getattr(self, "optimizer", "synchronous") == "synchronous"


def require(condition: bool, message: str) -> None:
    """Raise `ScheduleError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise ScheduleError(message)


def option(default: Any, help: str, name: str = "") -> Any:
    """A schedule option: a dataclass field with a default and one line that explains it.

    ``name`` is what users call it, where the field cannot have that name.
    """
    return field(default=default, metadata={"help": help, "name": name})


def optimizer_option() -> Any:
    """The option ``optimizer`` of schedules that split backwards, of type `Optimizer`."""
    return option("synchronous", "whether ranks wait for each other before the optimizer step")


def options(cls: type[Schedule]) -> dict[str, Field[Any]]:
    """The options of a schedule class under the names that users know."""
    return {f.metadata.get("name") or f.name: f for f in fields(cls)}
