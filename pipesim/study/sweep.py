"""Every combination of some settings: a tidy table to pivot and to plot."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipesim.errors import PipesimError
from pipesim.study.compare import Comparison, Plan, Source, name_of, reasons

if TYPE_CHECKING:
    from pipesim.config import Config

Axes = Mapping[str, Iterable[Any] | Mapping[str, Any]]


def sweep(
    config: Config | Source, axes: Axes, overrides: Sequence[str] = (), *, engine: str | None = None
) -> Comparison:
    """Simulate a config with every combination of values.

    ``axes`` maps paths in the config, such as ``"training.global_batch"`` or ``"schedule"``, to the values to set
    there; whole sections may be values. Each path becomes a column of the frame. A mapping of labels to values
    puts the labels into the column. The last path changes fastest. ``overrides`` are ``path=value`` strings for all
    combinations. ``engine`` as in `pipesim.simulate`.

    A combination that cannot run becomes a row that says why.

    Raises:
        ConfigError: no combination can run; with what is wrong with the first.
    """
    source = config if isinstance(config, str | os.PathLike | Mapping) else config.resolved()
    plans, errors = [], []
    for settings, chosen in _combinations(axes):
        label = ", ".join(map(str, settings.values()))
        try:
            plans.append(Plan(label, _simulate(source, [*overrides, *chosen], engine), None, settings))
        except PipesimError as error:
            errors.append(error)
            plans.append(Plan(label, None, reasons(error), settings))
    if errors and len(errors) == len(plans):
        raise errors[0]
    return Comparison(plans)


def _simulate(source: Source, overrides: list[str], engine: str | None) -> Any:
    from pipesim import api

    return api.simulate(api.load(source, overrides), engine=engine)


def _combinations(axes: Axes) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Column values and overrides, one pair per combination."""
    labelled = [list(_labelled(values)) for values in axes.values()]
    for chosen in itertools.product(*labelled):
        settings = dict(zip(axes, (label for label, _ in chosen), strict=True))
        values = (json.dumps(value, default=_plain) for _, value in chosen)
        yield settings, [f"{path}={value}" for path, value in zip(axes, values, strict=True)]


def _labelled(values: Iterable[Any] | Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    if isinstance(values, Mapping):
        yield from values.items()
    else:
        yield from ((name_of(value), value) for value in values)


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, paths as text."""
    return value.item() if hasattr(value, "item") else os.fspath(value)
