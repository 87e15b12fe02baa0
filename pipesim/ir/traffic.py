"""What a graph's transfers and collectives occupy on their way: the input of networks that are not ideal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Traffic:
    """Ports by dependency and by node; -1 is no port.

    ``dep_ports`` (m, 2): sending and receiving port of each dependency's message. ``dep_occupied`` (m,):
    picoseconds for which it occupies them; the rest of its lag is latency, which occupies nothing.
    ``node_ports`` (n, 2): ports that a collective occupies while it runs.
    """

    dep_ports: NDArray[np.int32]
    dep_occupied: NDArray[np.int64]
    node_ports: NDArray[np.int32]
