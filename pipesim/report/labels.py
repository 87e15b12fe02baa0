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

PADDING, LEADING = 2.4, 1.2
"""Points left free beside a number, and above and below it, both sides together."""

ROUNDING = 1e-6
"""Points by which equally large boxes may differ because corners are rounded."""

ENOUGH = 0.8
"""Share of a kind's numbers that must fit for any of them to be drawn: single digits alone would mislead."""

STEPS = 4
"""Boxes of one kind that are wider by up to the STEPS-th root of two count as equally wide."""

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

    One size for all boxes of about one height: the largest at which nearly all their numbers fit.
    """
    size, fits = np.full(len(boxes), SMALLEST), np.zeros(len(boxes), bool)
    asking = boxes.label >= 0
    if not asking.any():
        return size, fits
    outlines = np.array([text_size("0" * digits) for digits in range(1, len(str(int(boxes.label.max()))) + 1)])
    text = outlines[np.char.str_len(np.maximum(boxes.label, 0).astype(str)) - 1]
    limit = np.minimum((width - PADDING) / text[:, 0], (height - LEADING) / text[:, 1])
    whole = height > 0.7 * height[asking].max()
    for group in (asking & whole, asking & ~whole):
        if group.any():
            size[group] = np.clip(np.quantile(limit[group], 0.05), SMALLEST, LARGEST)
            fits[group] = _legible(boxes.style[group], width[group], (limit >= size - ROUNDING)[group])
    return size, fits


def _legible(style: NDArray[np.int64], width: Floats, fits: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Take back the numbers of boxes of one kind and about one width of which not enough fit."""
    steps = np.rint(STEPS * np.log2(np.maximum(width, SMALLEST))).astype(np.int64)
    style = np.unique(np.stack([style, steps]), axis=1, return_inverse=True)[1].ravel()
    enough = np.bincount(style, fits) >= ENOUGH * np.bincount(style)
    return np.asarray(fits & enough[style], np.bool_)
