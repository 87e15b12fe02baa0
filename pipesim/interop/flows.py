"""Who sends to whom: pairs of ops that a transfer between ranks joins."""

from __future__ import annotations

import pandas as pd

KEYS = ["route", "stage", "microbatch"]

TRANSFERS = (("SEND_F", "RECV_F", 1), ("SEND_B", "RECV_B", -1))
"""Sender, receiver, and the receiver's stage less the sender's (both name their own stage, as in PyTorch)."""

PRODUCERS = ((("F",), ("F",), 1), (("I", "B"), ("I", "B"), -1))
"""The compute ops at both ends, for timelines in which transfers are no ops."""


def flows_of(frame: pd.DataFrame) -> list[tuple[int, int]]:
    """Row positions (from, to): from each send to its receive where there are both, else between compute ops.

    A backward whose activations are recomputed receives before its RECOMPUTE; the arrow still ends at the
    backward. Pairs on one rank are left out, as nothing travels.
    """
    kinds = set(frame["kind"].unique())
    found: list[tuple[int, int]] = []
    for (send, receive, step), (source, target, _) in zip(TRANSFERS, PRODUCERS, strict=True):
        if {send, receive} <= kinds:
            found += _match(frame, (send,), (receive,), step)
        elif send in kinds:
            found += _match(frame, (send,), target, step)
        else:
            found += _match(frame, source, target, step)
    return sorted(found)


def _match(frame: pd.DataFrame, sources: tuple[str, ...], targets: tuple[str, ...], step: int) -> list[tuple[int, int]]:
    rows = frame[["rank", "kind", *KEYS]].assign(row=range(len(frame)))
    left = rows[rows["kind"].isin(sources)].assign(stage=lambda own: own["stage"] + step)
    both = left.merge(rows[rows["kind"].isin(targets)], on=KEYS, suffixes=("_from", "_to"))
    both = both[both["rank_from"] != both["rank_to"]]
    return list(zip(both["row_from"].tolist(), both["row_to"].tolist(), strict=True))
