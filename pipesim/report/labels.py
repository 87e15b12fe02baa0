"""Micro-batch numbers inside boxes, drawn as glyph outlines: one artist for thousands of them, in any format."""

from __future__ import annotations

from functools import cache

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

from pipesim.report.boxes import Boxes

Floats = NDArray[np.float64]

LARGEST, SMALLEST, STEP = 9.0, 4.5, 0.5
"""Font sizes in points, and what they are multiples of."""

PADDING, LEADING = 2.4, 1.2
"""Points left free beside a number, and above and below it, both sides together."""

NEARLY_ALL = 0.95
"""Share of the numbers that are equally large: the few with less room are smaller."""

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
    """Width of a number at font size 1, as drawn, and the height of the tallest digit, so that all fit or none."""
    return float(glyphs(text).get_extents().width), _digit_height()


@cache
def _digit_height() -> float:
    return max(float(glyphs(digit).get_extents().height) for digit in "0123456789")


def fit(boxes: Boxes, width: Floats, height: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Every box's font size, and which boxes carry their number; ``width`` and ``height`` in points.

    A box carries its number where the longest number of all would have room: single digits alone would mislead.
    Of boxes of about one height, nearly all numbers are equally large.
    """
    asking = boxes.label >= 0
    if not asking.any():
        return np.zeros(len(boxes)), asking
    wide, high = text_size("0" * len(str(int(boxes.label.max()))))
    room = np.minimum((width - PADDING) / wide, (height - LEADING) / high)
    size = np.minimum(np.floor(room / STEP) * STEP, LARGEST)
    fits = asking & (size >= SMALLEST)
    whole = height > 0.7 * height[asking].max()
    for group in (fits & whole, fits & ~whole):
        if group.any():
            size[group] = np.minimum(size[group], np.quantile(size[group], 1 - NEARLY_ALL, method="lower"))
    return size, fits
