"""Colours of op kinds: forward cold, backward warm, collectives green; told apart in grey and by the colour-blind.

Forward blue against backward orange is the pair that survives every common colour-vision deficiency (Okabe and
Ito, "Color Universal Design", 2008; Wong, Nature Methods 8, 441, 2011). A full backward (orange) lies between
its halves, input (vermilion) and weights (yellow), which differ in lightness as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.float64]


class Paint(NamedTuple):
    """A kind's colour and its name in the legend; kinds with one name share one legend entry."""

    colour: str
    name: str


PAINTS: dict[str, Paint] = {
    "F": Paint("#3f7fbf", "forward"),
    "B": Paint("#e8923a", "backward"),
    "I": Paint("#cc5a43", "backward for input"),
    "W": Paint("#f0cb5b", "backward for weights"),
    "RECOMPUTE": Paint("#1d3557", "recompute"),
    "SEND_F": Paint("#4fa8a8", "activation transfer"),
    "RECV_F": Paint("#4fa8a8", "activation transfer"),
    "SEND_B": Paint("#b0739c", "gradient transfer"),
    "RECV_B": Paint("#b0739c", "gradient transfer"),
    "UNSHARD": Paint("#8ccfa0", "gather weights"),
    "RESHARD": Paint("#c9e7d1", "drop gathered weights"),
    "REDUCE_GRAD": Paint("#1f7a4d", "reduce gradients"),
    "OFFLOAD": Paint("#8c6d53", "offload"),
    "RELOAD": Paint("#c4a98f", "reload"),
    "OPT": Paint("#55585e", "optimizer"),
    "RECONSTRUCT": Paint("#7d5a8c", "reconstruct weights"),
    "BARRIER": Paint("#a3a6ab", "barrier"),
}
"""Every kind of `pipesim.ir.op.Kind`, in legend order."""

ON_DARK: dict[str, str] = {
    "RECOMPUTE": "#6c63c7",
    "REDUCE_GRAD": "#2f9e68",
    "OFFLOAD": "#a5856a",
    "OPT": "#a2a7b0",
    "BARRIER": "#7d828b",
}
"""Kinds whose colour would be lost on a dark page, and their colour there."""

OTHER = Paint("#9c9c9c", "other")
"""Kinds that an imported trace brings along."""

IDLE = "#e9ebee"
"""Background of a compute lane: what shows through is a bubble."""

QUIET = "#f4f5f6"
"""Background of a communication lane, where idleness costs nothing."""

INK = "#1b1d21"
MUTED = "#6a6e75"
GRID = "#d5d8dc"
ALARM = "#b3123c"
"""For plans that do not fit; never the only sign, since colour alone is not read by everyone."""

CATEGORIES: dict[str, str] = {
    "weights": "#3b4a63",
    "gradients": "#c8793a",
    "optimizer": "#8d949e",
    "activations": "#6aa3d5",
    "buffers": "#8ccfa0",
}
"""Memory categories, bottom of the stack first: what stays, then what comes and goes."""

LIGHTEST = 0.62
"""How far the last chunk's colour goes towards white."""

SECOND_CHUNK = 0.42
"""How far the second chunk's colour goes towards white, when there are few."""

STRIPE = 0.6
"""What is left of a colour's brightness in the stripe that marks a route."""


def rgb(colour: str) -> RGB:
    """``#rrggbb`` as three floats in 0..1."""
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255.0


def paint(kind: str) -> Paint:
    """Colour and legend name of a kind."""
    return PAINTS.get(kind, OTHER)


def in_legend_order(kinds: Iterable[str]) -> list[str]:
    """Kinds in the order of `PAINTS`, unknown ones last."""
    order = {kind: i for i, kind in enumerate(PAINTS)}
    return sorted(kinds, key=lambda kind: (order.get(kind, len(order)), kind))


def chunk_shade(colour: RGB, chunk: int, chunks: int) -> RGB:
    """``colour`` for chunk 0, lighter for each later one."""
    if chunks < 2 or chunk <= 0:
        return colour
    step = min(SECOND_CHUNK, LIGHTEST / (chunks - 1))
    return colour + (1.0 - colour) * step * chunk


def ink_on(colour: RGB) -> str:
    """Dark or white, whichever is read more easily on ``colour`` (WCAG 2.1 relative luminance)."""
    linear = np.where(colour <= 0.03928, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ np.array([0.2126, 0.7152, 0.0722]))
    return "#ffffff" if (1.05 / (luminance + 0.05)) > 3.6 else INK
