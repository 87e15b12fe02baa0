"""What a graph's transfers and collectives occupy on their way: the input of networks that are not ideal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WHOLE = 1024
"""A whole port. Shares of ports are counted in 1024ths, so that sums and quotients of them stay short fractions."""


def in_1024ths(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Shares of a port, 0..1, rounded up."""
    return np.ceil(shares * WHOLE).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Traffic:
    """Messages by dependency and collectives by node; port -1 is no port.

    Dependencies, shape (m,): ``message`` numbers what they wait for, -1 for no message; those with the same number
    wait for one message that leaves when all their producers have ended (the two ends of a blocking transfer).
    ``dep_ports`` (m, 2) is its sending and its receiving port, ``dep_occupied`` the picoseconds for which it needs
    them when it is alone and ``dep_share`` how many 1024ths of each, ``dep_latency`` the picoseconds from its last
    byte's departure to its arrival, which occupy nothing.

    Nodes: ``node_ports`` (n, 2) that a collective uses, and ``node_share`` (n,), how many 1024ths of each it keeps
    busy when it runs alone.
    """

    message: NDArray[np.int64]
    dep_ports: NDArray[np.int32]
    dep_occupied: NDArray[np.int64]
    dep_share: NDArray[np.int64]
    dep_latency: NDArray[np.int64]
    node_ports: NDArray[np.int32]
    node_share: NDArray[np.int64]
