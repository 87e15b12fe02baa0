"""Tables of timed events, one row per op, as production tracers write them: CSV or Parquet.

Columns, under any of their names (`NAMES`): pipeline ``stage`` (the rank's position), ``kind``, ``start`` and
``duration`` are needed; ``dp_rank``, ``step``, ``microbatch`` and ``chunk`` may be left out. Times are seconds,
or what a suffix ``_ms`` or ``_us`` says. Kinds are those of NDTimeline as ByteDance-Seed/StragglerAnalysis reads
them (analyzer/metatypes.py, for example forward-compute), or F, I, W and B.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipesim.errors import nearest
from pipesim.interop.observation import Observation, TraceError, finished, occurrences, whole_steps

SUFFIXES = (".csv", ".csv.gz", ".parquet")

NAMES: dict[str, tuple[str, ...]] = {
    "stage": ("stage", "pp_rank", "pp"),
    "kind": ("kind", "optype", "op", "type"),
    "start": ("start", "start_ts", "ts"),
    "duration": ("duration", "dur"),
    "dp_rank": ("dp_rank", "dp"),
    "step": ("step",),
    "microbatch": ("microbatch", "mb_id", "mb"),
    "chunk": ("chunk", "mc", "model_chunk"),
}
"""Column -> the names it goes by, before any unit."""

KINDS: dict[str, tuple[str, str]] = {
    **{name: (kind, "compute") for name, kind in (("forward-compute", "F"), ("backward-compute", "B"))},
    **{kind: (kind, "compute") for kind in "FIWB"},
    "backward-input-compute": ("I", "compute"),
    "backward-weight-compute": ("W", "compute"),
    "forward-send": ("SEND_F", "p2p"),
    "forward-recv": ("RECV_F", "p2p"),
    "backward-send": ("SEND_B", "p2p"),
    "backward-recv": ("RECV_B", "p2p"),
    "params-all-gather": ("UNSHARD", "collective"),
    "grads-reduce-scatter": ("REDUCE_GRAD", "collective"),
    "separate-grads-all-reduce": ("REDUCE_GRAD", "collective"),
    "layernorm-grads-all-reduce": ("REDUCE_GRAD", "collective"),
    "embedding-grads-all-reduce": ("REDUCE_GRAD", "collective"),
    "optimizer": ("OPT", "compute"),
}
"""Name of a kind of event -> kind of op, and the stream that it occupies."""

LARGEST = 2**31
"""No stage, step or micro-batch has a larger number."""

_UNITS = {"": 1.0, "_s": 1.0, "_ms": 1e-3, "_us": 1e-6}
_NEEDED = ("stage", "kind", "start", "duration")


def read_events(path: Path) -> Observation:
    """The ops in a table. One data-parallel replica is kept, the lowest.

    With ``chunk``, stage c P + r of the model is chunk c on rank r of P. Without ``microbatch``, or where it is
    negative, forwards and backwards of a stage count from zero in order of time.

    Raises:
        TraceError: the file cannot be read, lacks a column, or holds what is no number or no known kind.
    """
    table, notes = _known_kinds(_columns(_table(path), path), path)
    if "dp_rank" in table and table["dp_rank"].nunique() > 1:
        first = table["dp_rank"].min()
        notes.append(f"{table['dp_rank'].nunique()} data-parallel replicas; replica {int(first)} was kept")
        table = table[table["dp_rank"] == first].reset_index(drop=True)
    frame = _frame(table)
    present, ranks = frame["rank"].nunique(), int(table["stage"].max()) + 1
    if present < ranks:
        notes.append(f"{present} of {ranks} pipeline ranks are in the table; the others are left out of all measures")
    compute = frame[frame["resource"] == "compute"]
    whole, partial = whole_steps(compute)
    frame = frame[frame["step"].isin(whole["step"])]
    try:
        return finished(frame, [*notes, *partial])
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path) if path.name.endswith(".parquet") else pd.read_csv(path)
    except ImportError:
        raise TraceError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow") from None
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, pd.errors.EmptyDataError) as error:
        raise TraceError(f"{path}: not a table: {error}") from None


def _columns(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The columns that are understood, under their own names, times in seconds."""
    found: dict[str, Any] = {}
    for name in table.columns:
        for column, others in NAMES.items():
            for unit, scale in _UNITS.items():
                if str(name).strip() in [other + unit for other in others] and column not in found:
                    found[column] = _read(column, table[name], path, scale)
    missing = [column for column in _NEEDED if column not in found]
    if missing:
        allowed = "; ".join(f"{column}: {', '.join(NAMES[column])}" for column in missing)
        raise TraceError(f"{path}: no column for {', '.join(missing)}; found {', '.join(map(str, table))}; {allowed}")
    if not len(table):
        raise TraceError(f"{path}: no rows")
    return pd.DataFrame(found)


def _read(column: str, values: pd.Series[Any], path: Path, scale: float) -> pd.Series[Any]:
    """A column as text, seconds or whole numbers."""
    if column == "kind":
        return values.astype(str)
    if column in ("start", "duration"):
        return _numbers(values, path) * scale
    numbers = _numbers(values, path)
    least, wanted = (0, "a whole number from 0 on") if column == "stage" else (-LARGEST, "a whole number")
    _check(numbers.between(least, LARGEST) & (numbers % 1 == 0), values, path, wanted)
    return numbers.astype(np.int64)


def _numbers(column: pd.Series[Any], path: Path) -> pd.Series[float]:
    numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
    _check(numbers.abs() < np.inf, column, path, "a number")
    return numbers


def _check(good: pd.Series[bool], column: pd.Series[Any], path: Path, wanted: str) -> None:
    """Raise TraceError for the first value that is not what is wanted."""
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise TraceError(f"{path}: column {column.name}, row {row + 1}: '{column.iloc[row]}' is not {wanted}")


def _known_kinds(table: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Without kinds that are no part of a pipeline, which the notes name."""
    kinds = table["kind"].str.strip()
    known = kinds.isin(list(KINDS))
    if not known.any():
        word = str(kinds.iloc[0])
        near = nearest(word, KINDS)
        hint = f"; did you mean {near}?" if near else ""
        raise TraceError(f"{path}: no known kind of event; found {word!r}; allowed: {', '.join(KINDS)}{hint}")
    others = sorted(set(kinds[~known]))
    notes = [f"events of these kinds were left out: {', '.join(others)}"] if others else []
    return table.assign(kind=kinds)[known].reset_index(drop=True), notes


def _frame(table: pd.DataFrame) -> pd.DataFrame:
    rank = table["stage"]
    chunk = table["chunk"].clip(lower=0) if "chunk" in table else 0
    frame = pd.DataFrame(
        {
            "rank": rank.rank(method="dense").astype(np.int64) - 1,
            "resource": table["kind"].map(lambda name: KINDS[name][1]),
            "kind": table["kind"].map(lambda name: KINDS[name][0]),
            "stage": chunk * (int(rank.max()) + 1) + rank,
            "route": 0,
            "start_s": table["start"],
            "end_s": table["start"] + table["duration"],
            "pair": -1,
            "step": table.get("step", 0),
        }
    )
    given = table["microbatch"] if "microbatch" in table else pd.Series(-1, index=table.index)
    counted = occurrences(frame, ("step", "rank", "stage", "kind"))
    frame["microbatch"] = np.where(given >= 0, given, counted)
    frame.loc[~frame["resource"].isin(["compute", "p2p"]), "microbatch"] = -1
    frame.loc[frame["kind"] == "OPT", ["stage", "microbatch"]] = -1
    return _on_one_clock(frame)


def _on_one_clock(frame: pd.DataFrame) -> pd.DataFrame:
    """Steps one after the other, where every step's times begin at zero."""
    span = frame.groupby("step")[["start_s", "end_s"]].agg({"start_s": "min", "end_s": "max"}).sort_index()
    if (span["start_s"].to_numpy()[1:] >= span["end_s"].to_numpy()[:-1]).all():
        return frame
    length = span["end_s"] - span["start_s"]
    shift = frame["step"].map(length.cumsum() - length - span["start_s"])
    return frame.assign(start_s=frame["start_s"] + shift, end_s=frame["end_s"] + shift)


def names_of(paths: Sequence[Path]) -> bool:
    """Whether these are tables rather than traces."""
    return all(path.name.endswith(SUFFIXES) for path in paths)
