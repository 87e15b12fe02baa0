"""Ops: what a rank can do, and the tokens that name them.

A token is ``{stage}{kind}{microbatch}``, for example ``2F5`` or ``7I3``, exactly as in PyTorch's
``torch.distributed.pipelining`` schedule files; ``(0F7;7B3)`` is an overlapped pair.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipesim.errors import ProgramError


class Kind(enum.IntEnum):
    """What an op does. The first four are compute that schedules emit; lowering adds the rest.

    A schedule without a flush also says where each stage's weights change: OPT with a stage and the last
    micro-batch whose gradient it applies. The OPT that lowering adds at the end of a step has neither.
    """

    F = 0  # forward
    I = 1  # noqa: E741  backward for the input
    W = 2  # backward for the weights
    B = 3  # full backward: I then W as one op
    RECOMPUTE = 4  # forward again, right before a backward
    SEND_F = 5  # blocking send of activations (holds the compute stream)
    RECV_F = 6
    SEND_B = 7  # blocking send of gradients
    RECV_B = 8
    UNSHARD = 9  # gather a stage's weights over data-parallel replicas
    RESHARD = 10  # drop the gathered weights
    REDUCE_GRAD = 11  # reduce a stage's gradients over data-parallel replicas
    OFFLOAD = 12  # activations to host memory
    RELOAD = 13  # and back
    OPT = 14  # optimizer step
    BARRIER = 15  # all ranks wait for the slowest
    RECONSTRUCT = 16  # the weights of a micro-batch's forward, recovered from newer ones


COMPUTE_KINDS = (Kind.F, Kind.I, Kind.W, Kind.B)
BACKWARD_KINDS = (Kind.I, Kind.B)
GRADIENT_KINDS = (Kind.W, Kind.B)
"""Kinds that complete the gradient of a stage's weights for a micro-batch; a stage's OPT comes after them."""

PER_MICROBATCH = (*COMPUTE_KINDS, Kind.RECOMPUTE, Kind.OFFLOAD, Kind.RELOAD)
"""Kinds whose cost is that of a micro-batch; all others cost the same whatever the micro-batches are."""


def is_any(kind: NDArray[np.int8], kinds: Sequence[Kind]) -> NDArray[np.bool_]:
    """Which entries of an array are one of a few kinds."""
    return reduce(or_, (kind == one for one in kinds))


_TOKEN = re.compile(r"(\d+)([A-Z_]+?)(\d+)$", re.ASCII)
_PAIR = re.compile(r"\(([^;()]+);([^;()]+)\)(?:OVERLAP_F_B)?$")


class Op(NamedTuple):
    """One op, identified by stage (in model order), kind and micro-batch."""

    stage: int
    kind: Kind
    microbatch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind.name}{self.microbatch}" if self.stage >= 0 else self.kind.name


class Pair(NamedTuple):
    """Two ops that run as one, overlapped: both start together and both results are there at the end."""

    first: Op
    second: Op

    def __str__(self) -> str:
        return f"({self.first};{self.second})"


def parse(token: str) -> Op | Pair:
    """The op or overlapped pair that ``token`` names.

    Accepts what PyTorch writes, with its suffix ``OVERLAP_F_B`` on pairs.

    Raises:
        ProgramError: the token is of neither form.
    """
    text = token.strip()
    if pair := _PAIR.match(text):
        return Pair(_parse_op(pair[1], token), _parse_op(pair[2], token))
    return _parse_op(text, token)


def _parse_op(text: str, token: str) -> Op:
    match = _TOKEN.match(text.strip())
    if match is None or match[2] not in Kind.__members__:
        kinds = " ".join(kind.name for kind in COMPUTE_KINDS)
        raise ProgramError(f"{token!r} is no op: expected STAGE KIND MICROBATCH as in 2F5, with a kind of {kinds}")
    return Op(int(match[1]), Kind[match[2]], int(match[3]))
