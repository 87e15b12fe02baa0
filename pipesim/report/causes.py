"""Idle time by cause, and the longest waits of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

LONGEST = 3
"""Waits that are shown of each cause."""


def causes_of(idle: pd.DataFrame, step_s: float, ranks: int) -> list[dict[str, Any]]:
    """One mapping per cause, most idle time first.

    ``idle`` is a table as `pipesim.result.Result.idle`. Keys: ``cause``, ``mean_s`` over ranks, ``share`` of the
    step, number of ``intervals``, and the ``longest`` of them as mappings of the table's other columns.
    """
    known = idle.assign(length_s=idle["end_s"] - idle["start_s"])
    found = []
    for cause, own in known.groupby("cause", observed=True):
        mean_s = float(own["length_s"].sum()) / ranks
        longest = own.sort_values(["length_s", "rank", "start_s"], ascending=[False, True, True]).head(LONGEST)
        found.append(
            {
                "cause": str(cause),
                "mean_s": mean_s,
                "share": mean_s / step_s if step_s else 0.0,
                "intervals": len(own),
                "longest": longest.drop(columns=["cause", "length_s"]).to_dict("records"),
            }
        )
    return sorted(found, key=lambda row: -row["mean_s"])
