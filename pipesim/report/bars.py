"""The artist that draws boxes: as polygons with numbers where they are wide, as shares of time where not.

The choice is made when the picture is drawn, so it follows the file's resolution and an interactive zoom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.text import Text
from matplotlib.transforms import Affine2D, ScaledTranslation
from numpy.typing import NDArray

from pipesim.report import coverage, labels
from pipesim.report.boxes import Boxes
from pipesim.report.colours import MUTED, ink_on
from pipesim.report.figures import root_figure

Floats = NDArray[np.float64]

NARROW = 1.5
"""Points below which ops cannot be told apart: where the median is less, shares of time are drawn instead."""

APART = 2.0
"""Ops further apart than this many times `NARROW` are drawn one by one, however short they are."""

WINDOW = 12
"""Ops over which shares are averaged, with the weight in the middle."""

VISIBLE = 0.6
"""Points that a lone short op is drawn wide at least, unless that is a sixth of the way to the next one."""

NOTE = "too fine to draw op by op: heights are shares of time"

SEPARATOR = 0.7
"""Points of white between neighbouring boxes, where they are wide enough to spare it."""


class Bars(Artist):
    """All boxes of a chart as one artist on ``axes``, whose x axis is in seconds and whose y axis is in lanes."""

    def __init__(self, axes: Axes, boxes: Boxes) -> None:
        super().__init__()
        self.boxes, self.as_shares = boxes, False
        self.set_in_layout(False)
        self.set_zorder(2)
        axes.add_artist(self)
        self.set_clip_path(axes.patch)

    def draw(self, renderer: RendererBase) -> None:
        """Draw what lies within the axes' limits."""
        if not self.get_visible() or self.axes is None:
            return
        boxes = _within(self.boxes, *sorted(self.axes.get_xlim()))
        self.as_shares = False
        for layer in np.unique(boxes.layer):
            own = boxes.select(boxes.layer == layer)
            if self._too_fine(own):
                self._draw_shares(own, renderer)
            else:
                self._draw_polygons(own, renderer)
        self.stale = False

    def _too_fine(self, boxes: Boxes) -> bool:
        """Whether the ops of one layer are too narrow and too close to be told apart."""
        return float(np.median(self._widths(boxes))) < NARROW and self._pitch(boxes) < APART * NARROW

    def _pitch(self, boxes: Boxes) -> float:
        """Points from one op of a lane to the next, on average."""
        assert self.axes is not None
        lanes = len(np.unique(boxes.lane))
        width = self.axes.bbox.width * 72.0 / self.axes.figure.dpi
        return float(width * lanes / len(boxes))

    def _widths(self, boxes: Boxes) -> Floats:
        """Widths in points."""
        assert self.axes is not None
        ends = self._pixels(np.array([[0.0, 0.0], [1.0, 0.0]]))
        scale = abs(float(ends[1, 0] - ends[0, 0])) * 72.0 / self.axes.figure.dpi
        return (boxes.right - boxes.left) * scale

    def _heights(self, boxes: Boxes) -> Floats:
        """Heights in points."""
        assert self.axes is not None
        ends = self._pixels(np.array([[0.0, 0.0], [0.0, 1.0]]))
        scale = abs(float(ends[1, 1] - ends[0, 1])) * 72.0 / self.axes.figure.dpi
        return (boxes.bottom - boxes.top) * scale

    def _pixels(self, points: Floats) -> Floats:
        assert self.axes is not None
        return np.asarray(self.axes.transData.transform(points), np.float64)

    def _draw_polygons(self, boxes: Boxes, renderer: RendererBase) -> None:
        assert self.axes is not None
        width, height = self._widths(boxes), self._heights(boxes)
        least = min(VISIBLE, self._pitch(boxes) / 6)
        right = np.where(
            width > 0, boxes.left + (boxes.right - boxes.left) * np.maximum(1.0, least / width), boxes.right
        )
        corners = np.stack([boxes.left, boxes.bottom, right, boxes.top], axis=1)
        collection = PolyCollection(
            list(corners[:, [[0, 1], [0, 3], [2, 3], [2, 1]]]),
            facecolors=boxes.colours[boxes.style],
            edgecolors="white",
            linewidths=np.clip(0.06 * np.minimum(width, height), 0.0, SEPARATOR),
            transform=self.axes.transData,
        )
        self._draw_child(collection, renderer)
        self._draw_numbers(boxes, width, height, renderer)

    def _draw_numbers(self, boxes: Boxes, width: Floats, height: Floats, renderer: RendererBase) -> None:
        """The micro-batch numbers that fit, dark on light boxes and white on dark ones."""
        size, fits = labels.fit(boxes, width, height)
        inks = np.array([ink_on(colour) for colour in boxes.colours])[boxes.style]
        for one in np.unique(size[fits]):
            for ink in np.unique(inks[fits]):
                own = np.flatnonzero(fits & (inks == ink) & (size == one))
                if len(own):
                    self._draw_child(self._numbers(boxes, own, float(one), str(ink)), renderer)

    def _numbers(self, boxes: Boxes, own: NDArray[np.int64], size: float, ink: str) -> PathCollection:
        assert self.axes is not None
        centre = np.stack([boxes.left[own] + boxes.right[own], boxes.top[own] + boxes.bottom[own]], axis=1) / 2
        collection = PathCollection(
            [labels.glyphs(str(n)) for n in boxes.label[own]],
            offsets=centre,
            offset_transform=self.axes.transData,
            facecolors=ink,
            linewidths=0,
        )
        collection.set_transform(Affine2D().scale(size * self.axes.figure.dpi / 72.0))
        return collection

    def _draw_child(self, child: Artist, renderer: RendererBase) -> None:
        assert self.axes is not None
        child.axes = self.axes
        child.set_figure(self.axes.figure)
        child.set_clip_path(self.axes.patch)
        child.draw(renderer)

    def _draw_shares(self, boxes: Boxes, renderer: RendererBase) -> None:
        """Shares of time per pixel of the file: of the screen, or of the raster that a vector file embeds."""
        columns, times = self._pixel_grid(0, renderer)
        rows, levels = self._pixel_grid(1, renderer)
        window = WINDOW * float(np.median(boxes.right - boxes.left))
        image = coverage.paint(boxes, np.sort(times), np.sort(levels), window)
        image = image[:, ::-1] if times[0] > times[-1] else image
        image = image[::-1] if levels[0] > levels[-1] else image
        gc = renderer.new_gc()
        self._set_gc_clip(gc)  # type: ignore[attr-defined]
        renderer.draw_image(gc, columns[0], rows[0], np.ascontiguousarray(image))
        gc.restore()
        self.as_shares = True

    def _pixel_grid(self, axis: int, renderer: RendererBase) -> tuple[Floats, Floats]:
        """Pixel borders across the axes along x (0) or y (1): in display units and in data units."""
        assert self.axes is not None
        scale = renderer.get_image_magnification()
        low, high = self.axes.bbox.min[axis], self.axes.bbox.max[axis]
        display = np.arange(np.floor(low * scale), np.ceil(high * scale) + 1) / scale
        points = np.zeros((len(display), 2))
        points[:, axis] = display
        return display, np.asarray(self.axes.transData.inverted().transform(points)[:, axis], np.float64)


class Note(Text):
    """Says that heights are shares, at the right end of ``axes``, where any of ``bars``, drawn before, is too fine.

    ``y`` is in points above the axes, or below them where it is negative.
    """

    def __init__(self, axes: Axes, bars: Sequence[Bars], y: float) -> None:
        shift = ScaledTranslation(0, y / 72, root_figure(axes).dpi_scale_trans)
        edge, side = (0.0, "top") if y < 0 else (1.0, "bottom")
        style: dict[str, Any] = {"ha": "right", "va": side, "fontsize": 7, "color": MUTED, "style": "italic"}
        super().__init__(1.0, edge, NOTE, transform=axes.transAxes + shift, clip_on=False, **style)
        self.bars = bars
        self.set_in_layout(False)
        axes.add_artist(self)

    def draw(self, renderer: RendererBase) -> None:
        """Draw if there is something to say."""
        if any(each.as_shares for each in self.bars):
            super().draw(renderer)


def _within(boxes: Boxes, first: float, last: float) -> Boxes:
    """The parts of boxes that lie in ``first..last`` seconds, so that numbers stay within the picture."""
    seen = boxes.select((boxes.right > first) & (boxes.left < last))
    return replace(seen, left=np.maximum(seen.left, first), right=np.minimum(seen.right, last))
