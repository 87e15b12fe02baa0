"""Micro-batch numbers inside boxes, drawn as glyph outlines: one artist for thousands of them, in any format."""

from __future__ import annotations

from functools import cache

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

from pipesim.report.boxes import Boxes

Floats = NDArray[np.float64]

LARGEST, SMALLEST = 9.0, 4.5
"""Font sizes in points."""

PADDING = 2.4
"""Points left free beside a number, both sides together."""

ENOUGH = 0.9
"""Share of a kind's numbers that must fit for any of them to be drawn: single digits alone would mislead."""

_FONT = FontProperties(family="DejaVu Sans")
"""Comes with Matplotlib, so that pictures are alike everywhere; its digits are all equally wide."""


@cache
def glyphs(text: str) -> TextPath:
    """The outline of a number at size 1, centred on the origin."""
    outline = TextPath((0, 0), text, size=1, prop=_FONT)
    box = outline.get_extents()
    digit_height = TextPath((0, 0), "0", size=1, prop=_FONT).get_extents().height
    return TextPath((-(box.x0 + box.width / 2), -digit_height / 2), text, size=1, prop=_FONT)


def text_size(text: str) -> tuple[float, float]:
    """Width and height of a number at font size 1, as drawn."""
    box = glyphs(text).get_extents()
    return float(box.width), float(box.height)


def fit(boxes: Boxes, width: Floats, height: Floats) -> tuple[float, NDArray[np.bool_]]:
    """The font size, and which boxes carry their number; ``width`` and ``height`` of the boxes in points.

    One size for all: the largest at which nearly all numbers fit, if there is one.
    """
    asking = boxes.label >= 0
    if not asking.any():
        return SMALLEST, asking
    sizes = np.array([text_size(str(n)) for n in range(int(boxes.label.max()) + 1)])
    text = sizes[np.maximum(boxes.label, 0)]
    limit = np.minimum((width - PADDING) / text[:, 0], (height - PADDING) / text[:, 1])
    size = float(np.clip(np.quantile(limit[asking], 0.05), SMALLEST, LARGEST))
    fits = asking & (limit >= size)
    for style in np.unique(boxes.style[asking]):
        own = asking & (boxes.style == style)
        if fits[own].mean() < ENOUGH:
            fits[own] = False
    return size, fits
