"""Published measurements, each with the config that describes it: `catalog/measurements/`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipesim import catalog
from pipesim.errors import PipesimError, nearest

_LETTERS = {
    "cluster.nodes": "nodes=",
    "parallelism.pipeline": "P",
    "parallelism.tensor": "T",
    "parallelism.data": "D",
    "parallelism.context": "C",
    "parallelism.expert": "E",
    "schedule.chunks": "V",
    "training.micro_batch": "b",
    "training.global_batch": "B",
    "training.sequence_parallel": "sp=",
    "training.scatter_gather": "scatter=",
    "training.zero": "zero=",
    "training.fused_kernels": "fused=",
    "training.tensor_overlap": "overlap=",
}
_TAIL = ("part", "series", "quantity", "value", "provenance")


class UnknownSourceError(PipesimError):
    """No such source of measurements."""


@dataclass(frozen=True)
class Source:
    """One publication. ``kind``: ``training``, ``unseen`` (runs that nothing was tried on), ``launch-bound`` or
    ``other``; ``family`` groups sources in totals.
    """

    name: str
    title: str
    citation: str
    kind: str
    family: str
    note: str
    left_out: tuple[dict[str, str], ...]
    config: dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """One published number: a ``quantity`` of `pipesim.study.quantities` with its value in SI units.

    ``overrides`` are the ``path=value`` strings that turn the source's config into this row's. Rows of one
    ``series`` differ only in their plan.
    """

    source: Source
    part: str
    series: str
    overrides: tuple[str, ...]
    quantity: str
    value: float
    provenance: str

    @property
    def key(self) -> str:
        """Equal for rows that describe the same run."""
        return json.dumps([self.source.name, self.overrides])

    @property
    def group(self) -> str:
        """What a summary has one line for: the source, and its table or figure."""
        return f"{self.source.name} {self.part}".strip()

    @property
    def workload(self) -> str:
        """Equal for rows of one source that train the same model on as many GPUs: their plans compete."""
        return json.dumps([self.source.name, self.setting("model"), self.gpus])

    @property
    def gpus(self) -> int:
        """GPUs of the job."""
        shared = self.source.config.get("parallelism", {})
        axes = ("pipeline", "tensor", "data", "context")
        return math.prod(int(self.setting(f"parallelism.{axis}") or shared.get(axis, 1)) for axis in axes)

    @property
    def label(self) -> str:
        """The plan in one line, axes by the letters that papers use."""
        return " ".join(f"{_LETTERS.get(path, '')}{_plain(value)}" for path, value in self._settings() if value != "1")

    def setting(self, path: str) -> str:
        """The row's own value at a config path; empty when the source's config holds it."""
        return dict(self._settings()).get(path, "")

    def _settings(self) -> list[tuple[str, str]]:
        return [(path, value) for path, _, value in (each.partition("=") for each in self.overrides)]


def sources() -> list[Source]:
    """All sources, in the catalog's order."""
    return [_source(name, entry) for name, entry in catalog.load("measurements/sources").items()]


def measurements(names: Sequence[str] | None = None) -> list[Measurement]:
    """All rows, or those of some sources.

    Raises UnknownSourceError with the nearest name.
    """
    known = {source.name: source for source in sources()}
    for name in names or ():
        if name not in known:
            near = nearest(name, known)
            hint = f"; did you mean {near}?" if near else ""
            raise UnknownSourceError(f"unknown source '{name}'; allowed: {', '.join(known)}{hint}")
    chosen = [known[name] for name in names or known]
    return [_measurement(source, row) for source in chosen for row in catalog.table(f"measurements/{source.name}")]


def _plain(value: str) -> str:
    """A value without YAML's brackets."""
    return value.translate(str.maketrans("", "", '{}[]:,"')).replace("base ", "")


def _source(name: str, entry: Mapping[str, Any]) -> Source:
    return Source(
        name=name,
        title=entry["title"],
        citation=entry["source"],
        kind=entry["kind"],
        family=entry["family"],
        note=" ".join(entry["note"].split()),
        left_out=tuple(map(catalog.copied, entry.get("left_out", ()))),
        config=catalog.copied(entry["config"]),
    )


def _measurement(source: Source, row: dict[str, str]) -> Measurement:
    return Measurement(
        source=source,
        part=row.get("part", ""),
        series=row.get("series", ""),
        overrides=tuple(f"{path}={value}" for path, value in row.items() if path not in _TAIL and value),
        quantity=row["quantity"],
        value=float(row["value"]),
        provenance=row["provenance"],
    )
