"""Steps whose micro-batches are not all alike: sequences of unequal lengths, or work that varies with the data.

What each kind of micro-batch costs comes from any cost model, as the `Costs` of a step of nothing else. Together they
make the `Costs` of a mixed step: the mean of all micro-batches, for whatever looks at a step as a whole (the order of
schedules that go by costs among it), and those of every micro-batch for its own ops, messages and activations.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import fields, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import Costs, HostCopies, StageSizes, StageTimes, Variants

Key = TypeVar("Key", bound=Hashable)
Part = TypeVar("Part", StageTimes, StageSizes)

_WORK = ("forward", "input_grad", "weight_grad", "recompute", "overlap")
_WORK_TIMES = (*_WORK, *(f"{name}_collective" for name in _WORK))
_ACTIVATIONS = ("activations", "weight_grad_activations", "recomputed", "message")


def mixed(kinds: Sequence[Key], price: Callable[[Key], Costs]) -> Costs:
    """The costs of a step with micro-batches of these kinds, (M,); ``price`` is asked once for each that occurs.

    Equal micro-batches have the very costs that ``price`` gives.
    """
    different = list(dict.fromkeys(kinds))
    costs = [price(kind) for kind in different]
    if len(costs) == 1:
        return costs[0]
    number = {kind: index for index, kind in enumerate(different)}
    of = np.array([number[kind] for kind in kinds], np.int64)
    share = np.bincount(of) / len(of)
    return replace(
        costs[0],
        times=_mean([each.times for each in costs], share),
        sizes=_mean([each.sizes for each in costs], share),
        host=_mean_copies([each.host for each in costs], share),
        buffers_bytes=np.max([each.buffers_bytes for each in costs], axis=0),
        variants=Variants(tuple(costs), of),
    )


def scaled(costs: Costs, factor: float) -> Costs:
    """Micro-batches with ``factor`` times the work, activations and message bytes; weights and latencies as before."""
    times = {name: getattr(costs.times, name) * factor for name in _WORK_TIMES}
    sizes = {name: getattr(costs.sizes, name) * factor for name in _ACTIVATIONS}
    host = costs.host
    if host is not None:
        host = replace(host, offload_s=host.offload_s * factor, reload_s=host.reload_s * factor)
    return replace(costs, times=replace(costs.times, **times), sizes=replace(costs.sizes, **sizes), host=host)


def _mean(parts: Sequence[Part], share: NDArray[np.float64]) -> Part:
    """Each array of shape (S,) as the mean over variants; what all have in common stays as it is."""
    return replace(parts[0], **{f.name: _average([getattr(p, f.name) for p in parts], share) for f in fields(parts[0])})


def _mean_copies(parts: Sequence[HostCopies | None], share: NDArray[np.float64]) -> HostCopies | None:
    known = [part for part in parts if part is not None]
    if not known:
        return None
    out, back = (_average([getattr(part, name) for part in known], share) for name in ("offload_s", "reload_s"))
    return replace(known[0], offload_s=out, reload_s=back)


def _average(arrays: Sequence[NDArray[np.float64]], share: NDArray[np.float64]) -> NDArray[np.float64]:
    if all((array == arrays[0]).all() for array in arrays[1:]):
        return arrays[0]
    mean: NDArray[np.float64] = (share[:, None] * np.stack(arrays)).sum(axis=0)
    return mean
