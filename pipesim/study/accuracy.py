"""Predicted against published: every measurement of the catalog simulated with the shipped configuration.

No constant is fitted to these rows (the catalog says where each constant comes from). Errors are of time: positive
means that the prediction is too slow; for bytes, too large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipesim.study import quantities
from pipesim.study.measurements import Measurement, measurements

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA_VERSION = 1

_WHOLE = {"training": "all training runs", "unseen": "all unseen runs"}
"""Kinds of sources that are training runs, and what they are together."""


@dataclass(frozen=True)
class Comparison:
    """One measurement and its prediction, both in the measurement's units."""

    measurement: Measurement
    predicted: float
    fits: bool

    @property
    def error(self) -> float:
        """Relative error of the time (or bytes): +0.1 is 10 % too slow (or too large)."""
        return quantities.time_error(self.measurement.quantity, self.predicted, self.measurement.value)

    @property
    def is_memory(self) -> bool:
        """Whether bytes are compared."""
        return quantities.is_memory(self.measurement.quantity)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        row = self.measurement
        return {
            "source": row.source.name,
            "part": row.part,
            "plan": row.label,
            "quantity": row.quantity,
            "measured": row.value,
            "predicted": self.predicted,
            "error": self.error,
            "fits": self.fits,
            "provenance": row.provenance,
        }


@dataclass(frozen=True)
class Summary:
    """Errors of some rows: ``mean_absolute``, ``median`` and ``p90`` of their sizes, ``bias`` their mean.

    ``rank_correlation`` is Spearman's, between predicted and measured speed of the plans that train the same model
    on as many GPUs, averaged over such groups of at least three; ``series`` the mean size of error once one row of
    each series (its last) has calibrated the compute rate. Both None where nothing is to be compared.
    """

    name: str
    memory: bool
    rows: int
    runs: int
    mean_absolute: float
    median: float
    p90: float
    bias: float
    rank_correlation: float | None
    series: float | None

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return dict(self.__dict__)


@dataclass(frozen=True, eq=False)
class Accuracy:
    """All comparisons, in the catalog's order."""

    comparisons: Sequence[Comparison]

    def by_group(self) -> list[Summary]:
        """One summary per source and table, times first, then bytes."""
        return self._summaries(lambda each: each.measurement.group)

    def by_family(self) -> list[Summary]:
        """One per family of training runs; one over all of them, and one over those that nothing was tried on."""
        steps = [each for each in self.comparisons if _whole_step(each)]
        wholes = []
        for kind, name in _WHOLE.items():
            times = [each for each in steps if each.measurement.source.kind == kind and not each.is_memory]
            wholes += [summary(name, times, False)] if times else []
        return Accuracy(steps)._summaries(lambda each: each.measurement.source.family) + wholes

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "schema_version": SCHEMA_VERSION,
            "groups": [each.as_json() for each in self.by_group()],
            "families": [each.as_json() for each in self.by_family()],
            "rows": [each.as_json() for each in self.comparisons],
        }

    def plot(self) -> Figure:
        """Predicted against measured, one colour per source."""
        from pipesim.report.accuracy import Point, figure

        shown = [each for each in self.comparisons if each.measurement.source.kind in _WHOLE] or self.comparisons
        points = [
            Point(row.source.name, row.value, each.predicted, row.quantity, each.error)
            for each in shown
            for row in (each.measurement,)
        ]
        return figure(points)

    def _summaries(self, name: Callable[[Comparison], str]) -> list[Summary]:
        found = []
        for memory in (False, True):
            chosen = [each for each in self.comparisons if each.is_memory is memory]
            groups = dict.fromkeys(map(name, chosen))
            found += [summary(group, [each for each in chosen if name(each) == group], memory) for group in groups]
        return found


def accuracy(
    names: Sequence[str] | None = None,
    rows: Iterable[Measurement] | None = None,
    overrides: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Accuracy:
    """Simulate the rows of all sources, of some, or ``rows``, with their configs changed by ``overrides``.

    ``progress`` is called with how many rows are done, and of how many. Raises UnknownSourceError, and ConfigError for
    overrides that a config does not take.
    """
    given = rows if rows is not None else measurements(names)
    chosen = [replace(row, overrides=(*row.overrides, *overrides)) for row in given]
    runs: dict[str, quantities.Run] = {}
    comparisons = []
    for index, row in enumerate(chosen):
        if row.key not in runs:
            runs = {row.key: quantities.simulate(row)}
        run = runs[row.key]
        comparisons.append(Comparison(row, quantities.value(row, run), run.result.fits))
        if progress is not None:
            progress(index + 1, len(chosen))
    return Accuracy(comparisons)


def summary(name: str, comparisons: Sequence[Comparison], memory: bool) -> Summary:
    """The statistics of some comparisons; at least one."""
    errors = np.array([each.error for each in comparisons])
    return Summary(
        name=name,
        memory=memory,
        rows=len(comparisons),
        runs=len({each.measurement.key for each in comparisons}),
        mean_absolute=float(np.abs(errors).mean()),
        median=float(np.median(np.abs(errors))),
        p90=float(np.quantile(np.abs(errors), 0.9)),
        bias=float(errors.mean()),
        rank_correlation=None if memory else _rank_correlation(comparisons),
        series=None if memory else _series_error(comparisons),
    )


def _whole_step(each: Comparison) -> bool:
    """Whether a row is a whole step of a training run; times of single layers are not."""
    quantity = each.measurement.quantity
    return each.measurement.source.kind in _WHOLE and not quantity.startswith("layer")


def _rank_correlation(comparisons: Sequence[Comparison]) -> float | None:
    groups: dict[str, list[Comparison]] = {}
    for each in comparisons:
        groups.setdefault(each.measurement.workload, []).append(each)
    several = [group for group in groups.values() if len({each.measurement.key for each in group}) > 2]
    found = [rank for rank in map(_spearman, several) if rank is not None]
    return float(np.mean(found)) if found else None


def _spearman(group: Sequence[Comparison]) -> float | None:
    """Of the speeds in samples per second; None when all are equal."""
    predicted, measured = (_ranks([speed(each) for each in group]) for speed in (_predicted_speed, _measured_speed))
    if np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return None
    return float(np.corrcoef(predicted, measured)[0, 1])


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Ranks from 0; equal values share their mean rank."""
    array = np.array(values)
    return np.array([((array < value).sum() + (array <= value).sum() - 1) / 2 for value in array])


def _predicted_speed(each: Comparison) -> float:
    return each.predicted if each.measurement.quantity in quantities.RATES else _batch(each) / each.predicted


def _measured_speed(each: Comparison) -> float:
    value = each.measurement.value
    return value if each.measurement.quantity in quantities.RATES else _batch(each) / value


def _batch(each: Comparison) -> float:
    return float(each.measurement.setting("training.global_batch") or 1)


def _series_error(comparisons: Sequence[Comparison]) -> float | None:
    series: dict[tuple[str, str], list[Comparison]] = {}
    for each in comparisons:
        if each.measurement.series:
            series.setdefault((each.measurement.source.name, each.measurement.series), []).append(each)
    errors = [
        abs((1 + each.error) / (1 + rows[-1].error) - 1)
        for rows in series.values()
        if len(rows) > 1
        for each in rows[:-1]
    ]
    return float(np.mean(errors)) if errors else None
