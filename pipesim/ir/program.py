"""Programs: for every rank, its ops in order. No times, no bytes.

Stored as arrays (a large job has millions of ops); tokens are the view for people.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipesim.errors import ProgramError
from pipesim.ir.op import Kind, Op, Pair, parse
from pipesim.ir.placement import Placement

OpLike = Op | Pair | str | tuple[int, Kind, int]

NO_STAGE = -1
"""Stage and micro-batch of an op that belongs to a whole rank, such as the optimizer step."""


@dataclass(frozen=True, eq=False)
class Program:
    """The ops of rank r are ``starts[r]:starts[r + 1]`` of the arrays, in the order in which it runs them.

    ``route_of`` is the route of every micro-batch, shape (M,). ``paired`` marks an op that runs overlapped
    with the op that follows it.
    """

    placement: Placement
    route_of: NDArray[np.int32]
    starts: NDArray[np.int64]
    kind: NDArray[np.int8]
    stage: NDArray[np.int32]
    microbatch: NDArray[np.int32]
    paired: NDArray[np.bool_]

    @classmethod
    def from_orders(
        cls,
        placement: Placement,
        orders: Sequence[Iterable[OpLike]],
        route_of: NDArray[np.int32] | None = None,
    ) -> Program:
        """A program from one iterable of ops, pairs or tokens per rank.

        ``route_of`` may be left out when there is one route; M is then the largest micro-batch plus one.
        """
        rows: list[tuple[int, int, int, bool]] = []
        starts = [0]
        for order in orders:
            for item in order:
                rows.extend(_rows(item))
            starts.append(len(rows))
        columns = np.array(rows, dtype=np.int64).reshape(-1, 4)
        count = int(columns[:, 2].max(initial=-1)) + 1
        return cls(
            placement=placement,
            route_of=np.zeros(count, np.int32) if route_of is None else np.asarray(route_of, np.int32),
            starts=np.array(starts, np.int64),
            kind=columns[:, 1].astype(np.int8),
            stage=columns[:, 0].astype(np.int32),
            microbatch=columns[:, 2].astype(np.int32),
            paired=columns[:, 3].astype(bool),
        )

    @classmethod
    def from_arrays(
        cls,
        placement: Placement,
        columns: Sequence[tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.integer]]],
        microbatches: int,
        route_of: NDArray[np.int32] | None = None,
    ) -> Program:
        """A program without pairs from (kind, stage, micro-batch) arrays, one triple per rank."""
        sizes = [len(kind) for kind, _, _ in columns]
        kinds, stages, microbatch_columns = zip(*columns, strict=True)
        return cls(
            placement=placement,
            route_of=np.zeros(microbatches, np.int32) if route_of is None else route_of,
            starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            kind=_joined(kinds, np.int8),
            stage=_joined(stages, np.int32),
            microbatch=_joined(microbatch_columns, np.int32),
            paired=np.zeros(sum(sizes), bool),
        )

    @property
    def ranks(self) -> int:
        """Number of ranks P."""
        return self.placement.ranks

    @property
    def microbatches(self) -> int:
        """Number of micro-batches M."""
        return len(self.route_of)

    @property
    def rank(self) -> NDArray[np.int32]:
        """Rank of every op."""
        return np.repeat(np.arange(self.ranks, dtype=np.int32), np.diff(self.starts))

    @property
    def has_updates(self) -> bool:
        """Whether weights change within the program: there is no flush."""
        return bool(((self.kind == Kind.OPT) & (self.stage >= 0)).any())

    def __len__(self) -> int:
        return len(self.kind)

    def ops(self, rank: int) -> Iterator[Op | Pair]:
        """Ops and overlapped pairs of one rank, in order."""
        first = None
        for i in range(int(self.starts[rank]), int(self.starts[rank + 1])):
            op = Op(int(self.stage[i]), Kind(self.kind[i]), int(self.microbatch[i]))
            if first is not None:
                yield Pair(first, op)
                first = None
            elif self.paired[i]:
                first = op
            else:
                yield op

    def tokens(self, rank: int) -> list[str]:
        """The ops of one rank as tokens."""
        mine = slice(int(self.starts[rank]), int(self.starts[rank + 1]))
        if self.paired[mine].any() or (self.stage[mine] < 0).any():
            return [str(op) for op in self.ops(rank)]
        names = [kind.name for kind in Kind]
        columns = (column[mine].tolist() for column in (self.stage, self.kind, self.microbatch))
        return [f"{stage}{names[kind]}{microbatch}" for stage, kind, microbatch in zip(*columns, strict=True)]

    def grid(self) -> str:
        """Ranks as rows, ops in order as columns: the picture to hold next to a paper's figure."""
        table = [self.tokens(rank) for rank in range(self.ranks)]
        width = max((len(max(row, key=len)) for row in table if row), default=1)
        label = len(str(self.ranks - 1))
        lines = (f"{r:>{label}} | " + " ".join([t.rjust(width) for t in row]) for r, row in enumerate(table))
        return "\n".join(line.rstrip() for line in lines)

    def __str__(self) -> str:
        return self.grid()

    def to_csv(self) -> str:
        """PyTorch's compute-only schedule CSV, one row per rank.

        Raises:
            ProgramError: the program has several routes, or optimizer steps, which that format cannot express.
        """
        if self.has_updates:
            raise ProgramError(
                "a program with optimizer steps between its micro-batches cannot be written as PyTorch schedule CSV: "
                "there, the optimizer steps once, after the schedule"
            )
        if self.placement.routes > 1:
            raise ProgramError(
                f"a program with {self.placement.routes} routes cannot be written as PyTorch schedule CSV: "
                "there, each stage lives on exactly one rank"
            )
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        for rank in range(self.ranks):
            tokens = self.tokens(rank)
            writer.writerow([t + "OVERLAP_F_B" if t.startswith("(") else t for t in tokens])
        return out.getvalue()

    def select(self, keep: NDArray[np.integer], starts: NDArray[np.int64]) -> Program:
        """The ops at the given positions, in that order, split into ranks by ``starts``."""
        return replace(
            self,
            starts=starts,
            kind=self.kind[keep],
            stage=self.stage[keep],
            microbatch=self.microbatch[keep],
            paired=self.paired[keep],
        )


def _joined(parts: Sequence[NDArray[np.integer]], dtype: type[np.signedinteger]) -> NDArray[Any]:
    return np.concatenate(parts, dtype=dtype, casting="same_kind")


def _rows(item: OpLike) -> list[tuple[int, int, int, bool]]:
    if isinstance(item, str):
        item = parse(item)
    if isinstance(item, Pair):
        return [(*item.first, True), (*item.second, False)]
    stage, kind, microbatch = item
    return [(stage, int(kind), microbatch, False)]
