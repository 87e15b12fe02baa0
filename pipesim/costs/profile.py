"""Measured costs from a CSV file, put in the place of modelled ones.

The file has one row per stage (column ``stage``, 0-based, all of them) or one per layer (column ``layer``:
0-based numbers, and optionally ``embedding`` and ``head``), for one micro-batch on one GPU. Every other
column is a quantity with its unit:

- times, ``_s``, ``_ms`` or ``_us``: ``forward`` (needed), ``input_grad`` and ``weight_grad`` or ``backward``
  (needed; a whole backward is split in halves), ``recompute``, ``optimizer``, ``reduce_grad``, ``unshard``;
- times of computing alone, ``forward_compute``, ``input_grad_compute``, ``weight_grad_compute``,
  ``backward_compute`` and ``recompute_compute`` in the same units, in place of those without ``_compute``: measured
  on one GPU without its peers, as ``pipesim calibrate`` does. The modelled tensor, context and expert parallel
  communication is added to them; the others are whole times and contain it;
- sizes, ``_bytes``, ``_kB``, ``_MB``, ``_GB``, ``_KiB``, ``_MiB`` or ``_GiB``: ``activation``,
  ``weight_grad_activation``, ``recomputed``, ``message``, ``weights``, ``gradients``, ``optimizer_state``,
  ``unsharded``.

For example ``stage,forward_ms,backward_ms,activation_MiB``. Lines that start with # are comments. What the
file does not say stays as it was modelled. A stage is the sum of its layers; of ``message`` and ``recomputed``, which
exist for one layer at a time, it has the largest.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipesim.costs.costs import Costs, StageTimes
from pipesim.errors import ConfigError, Problem, nearest
from pipesim.workload.partition import layer_ranges

_TIMES = (
    "forward",
    "input_grad",
    "weight_grad",
    "backward",
    "recompute",
    "optimizer",
    "reduce_grad",
    "unshard",
)
_COMPUTE = "_compute"
"""Ends a time that holds no communication."""

_PARTS = ("forward", "input_grad", "weight_grad", "recompute")
"""Times that communication is a part of."""

_HOLDS_COMPUTE = tuple(f"{name}{_COMPUTE}" for name in (*_PARTS, "backward"))

_SIZES = {
    "activation": "activations",
    "weight_grad_activation": "weight_grad_activations",
    "recomputed": "recomputed",
    "message": "message",
    "weights": "weights",
    "gradients": "gradients",
    "optimizer_state": "optimizer",
    "unsharded": "unsharded",
}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_BYTES = {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_ENDS = ("embedding", "head")
_LARGEST = ("message", "recomputed")
_PATH = "costs.profile"

Column = NDArray[np.float64]


@dataclass(frozen=True)
class Profile:
    """Measured columns in SI units by quantity, each of shape (rows,), and the key of each row."""

    by_layer: bool
    keys: tuple[str, ...]
    columns: Mapping[str, Column]


def profile_costs(path: str | Path, base: Costs, layers_per_stage: Sequence[int] | None = None) -> Costs:
    """``base`` with everything that the file at ``path`` says in its place.

    ``layers_per_stage`` says how rows per layer are added up into stages; without it such a file is an error.
    Raises ConfigError, naming line and column, for a file that cannot be read or used.
    """
    profile = read_profile(path)
    stages = base.stages
    columns = _per_stage(profile, stages, layers_per_stage, str(path))
    times = {name: values for name, values in columns.items() if name in (*_TIMES, *_HOLDS_COMPUTE)}
    sizes = {_SIZES[name]: values for name, values in columns.items() if name in _SIZES}
    return replace(base, times=_replaced(base.times, times), sizes=replace(base.sizes, **sizes))


def read_profile(path: str | Path) -> Profile:
    """The table in a CSV file, checked and in SI units. Raises ConfigError as `profile_costs`."""
    lines = _lines(Path(path))
    problems: list[Problem] = []
    header = [name.strip() for name in lines[0][1]]
    quantities = _quantities(header, problems)
    if problems:
        raise ConfigError(problems, str(path))
    rows = [_row(number, cells, header, quantities, problems) for number, cells in lines[1:]]
    if not rows:
        problems.append(Problem(_PATH, "has a header but no rows"))
    if problems:
        raise ConfigError(problems, str(path))
    key = "layer" if "layer" in header else "stage"
    values = np.array([[row[name] for name in quantities] for row in rows], dtype=np.float64)
    keys = tuple(cells[header.index(key)].strip() for _, cells in lines[1:])
    return Profile(key == "layer", keys, dict(zip(quantities.values(), values.T, strict=True)))


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Line numbers and cells of what is neither empty nor a comment."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError([Problem(_PATH, f"cannot be read: {error.strerror}", str(path))]) from error
    except UnicodeDecodeError as error:
        message = f"is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
        raise ConfigError([Problem(_PATH, message, str(path), "a CSV file in UTF-8")]) from error
    try:
        rows = [(reader.line_num, row) for reader in [csv.reader(text.splitlines(), strict=True)] for row in reader]
    except csv.Error as error:
        raise ConfigError([Problem(_PATH, f"is not CSV: {error}", str(path))]) from error
    kept = [(number, row) for number, row in rows if any(row) and not row[0].lstrip().startswith("#")]
    if not kept:
        raise ConfigError([Problem(_PATH, "is empty", str(path), "a header and one row per stage or layer")])
    return kept


def _quantities(header: Sequence[str], problems: list[Problem]) -> dict[str, str]:
    """Quantity by column name, in the header's order."""
    found: dict[str, str] = {}
    for name in header:
        quantity, _ = _split(name)
        if name in ("stage", "layer"):
            continue
        if quantity is None:
            times = [f"{each}_s" for each in (*_TIMES, *_HOLDS_COMPUTE)]
            allowed = ", ".join(times + [f"{each}_bytes" for each in _SIZES])
            close = nearest(name, allowed.split(", "))
            problems.append(Problem(_PATH, "unknown column", repr(name), allowed, close))
        elif (whole := quantity.removesuffix(_COMPUTE)) in {each.removesuffix(_COMPUTE) for each in found.values()}:
            problems.append(Problem(_PATH, f"says {whole} twice", repr(name)))
        else:
            found[name] = quantity
    _check_present(header, {quantity.removesuffix(_COMPUTE) for quantity in found.values()}, problems)
    return found


def _check_present(header: Sequence[str], quantities: set[str], problems: list[Problem]) -> None:
    if ("stage" in header) == ("layer" in header):
        problems.append(Problem(_PATH, "needs one of the columns stage and layer", ", ".join(header)))
    halves = quantities & {"input_grad", "weight_grad"}
    if "forward" not in quantities:
        problems.append(Problem(_PATH, "column forward is missing", ", ".join(header), "forward_s, forward_ms"))
    if "backward" in quantities and halves:
        problems.append(Problem(_PATH, "gives backward and its halves", ", ".join(sorted(halves))))
    if "backward" not in quantities and len(halves) < 2:
        allowed = "backward_s, or input_grad_s and weight_grad_s"
        problems.append(Problem(_PATH, "the backward is missing", ", ".join(header), allowed))


def _split(name: str) -> tuple[str | None, float]:
    """Quantity and unit of a column name such as ``forward_ms``; None when there is no such column."""
    quantity, _, unit = name.rpartition("_")
    if quantity in (*_TIMES, *_HOLDS_COMPUTE) and unit in _SECONDS:
        return quantity, _SECONDS[unit]
    if quantity in _SIZES and unit in _BYTES:
        return quantity, float(_BYTES[unit])
    return None, 0.0


def _row(
    number: int,
    cells: Sequence[str],
    header: Sequence[str],
    quantities: Mapping[str, str],
    problems: list[Problem],
) -> dict[str, float]:
    """SI values of one line by column name."""
    if len(cells) != len(header):
        found = f"{len(cells)} cells"
        problems.append(Problem(_PATH, f"line {number} is cut short or too long", found, f"{len(header)} cells"))
        return dict.fromkeys(quantities, 0.0)
    by_name = dict(zip(header, cells, strict=True))
    return {name: _value(number, name, by_name[name], problems) for name in quantities}


def _value(number: int, name: str, cell: str, problems: list[Problem]) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        message = f"line {number}, column {name}: not usable"
        problems.append(Problem(_PATH, message, repr(cell), "a number of at least 0"))
        return 0.0
    return value * _split(name)[1]


def _per_stage(profile: Profile, stages: int, layers_per_stage: Sequence[int] | None, source: str) -> dict[str, Column]:
    """Columns of shape (stages,): rows in stage order, or layers added up."""
    if not profile.by_layer:
        order = _positions(profile.keys, [str(stage) for stage in range(stages)], "stage", source)
        return {name: values[order] for name, values in profile.columns.items()}
    if layers_per_stage is None:
        message = "is per layer, but the stages of this schedule are parts of layers"
        raise ConfigError([Problem(_PATH, message, None, f"a row for each of the stages 0 to {stages - 1}")], source)
    layers = [str(layer) for layer in range(sum(layers_per_stage))]
    ends = [end for end in _ENDS if end in profile.keys]
    order = _positions(profile.keys, layers + ends, "layer", source)
    position = dict(zip(layers + ends, order, strict=True))
    members = [[position[str(layer)] for layer in indices] for indices in layer_ranges(layers_per_stage)]
    members[0] += [position["embedding"]] if "embedding" in ends else []
    members[-1] += [position["head"]] if "head" in ends else []
    return {
        name: np.array([(np.max if name in _LARGEST else np.sum)(values[rows], initial=0.0) for rows in members])
        for name, values in profile.columns.items()
    }


def _positions(keys: Sequence[str], wanted: Sequence[str], kind: str, source: str) -> list[int]:
    """Row of each wanted key; every key must be there exactly once and nothing else."""
    problems = []
    missing = [key for key in wanted if key not in keys]
    repeated = sorted({key for key in keys if list(keys).count(key) > 1})
    foreign = [key for key in dict.fromkeys(keys) if key not in wanted]
    allowed = f"{kind}s {wanted[0]} to {wanted[-1]}, each once"
    for what, which in (("lacks", missing), ("repeats", repeated), ("has unexpected", foreign)):
        if which:
            problems.append(Problem(_PATH, f"{what} {kind}", ", ".join(which[:8]), allowed))
    if problems:
        raise ConfigError(problems, source)
    return [list(keys).index(key) for key in wanted]


def _replaced(base: StageTimes, columns: Mapping[str, Column]) -> StageTimes:
    """Times with measured ones in their place. In a whole one, collectives take no longer than the whole; computing
    alone keeps the modelled ones, and what of them runs beside products."""
    measured = _halved(columns)
    collectives = {name: getattr(base, f"{name}_collective") for name in _PARTS}
    alone = {name: measured.pop(f"{name}{_COMPUTE}") for name in _PARTS if f"{name}{_COMPUTE}" in measured}
    whole = {f"{name}_collective": np.minimum(collectives[name], measured[name]) for name in _PARTS if name in measured}
    together = {name: seconds + collectives[name] for name, seconds in alone.items()}
    return replace(base, **measured, **whole, **together, **_overlap(base, measured.keys(), alone.get("weight_grad")))


def _halved(columns: Mapping[str, Column]) -> dict[str, Column]:
    """A whole backward split in halves."""
    halved = dict(columns)
    for kind in ("", _COMPUTE):
        if f"backward{kind}" in halved:
            half = halved.pop(f"backward{kind}") / 2
            halved |= {f"input_grad{kind}": half, f"weight_grad{kind}": half}
    return halved


def _overlap(base: StageTimes, whole: Collection[str], weight_grad: Column | None) -> dict[str, Column]:
    """What whole backwards save by communicating: nothing more where they were measured whole, and no longer than the
    products of the weight gradient take where these were measured alone."""
    if {"input_grad", "weight_grad"} & set(whole):
        nothing = np.zeros_like(base.overlap)
        return {"overlap": nothing, "overlap_collective": nothing}
    if weight_grad is None:
        return {}
    hidden = base.overlap_collective
    share = np.minimum(weight_grad, hidden) / np.where(hidden > 0, hidden, 1.0)
    return {"overlap": base.overlap * share, "overlap_collective": hidden * share}
