"""The artist that draws boxes: as polygons with numbers where they are wide, as exact pixel averages where not.

The choice is made when the picture is drawn, so it follows the file's resolution and an interactive zoom.
"""

from __future__ import annotations

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.transforms import Affine2D
from numpy.typing import NDArray

from pipesim.report import coverage, labels
from pipesim.report.boxes import Boxes
from pipesim.report.colours import ink_on

Floats = NDArray[np.float64]

NARROW = 3.0
"""Pixels below which the median box of a lane is drawn as coverage rather than as a polygon."""

SEPARATOR = 0.7
"""Points of white between neighbouring boxes, where they are wide enough to spare it."""


class Bars(Artist):
    """All boxes of a chart as one artist on ``axes``, whose x axis is in seconds and whose y axis is in lanes."""

    def __init__(self, axes: Axes, boxes: Boxes) -> None:
        super().__init__()
        self.boxes = boxes
        self.set_in_layout(False)
        self.set_zorder(2)
        axes.add_artist(self)
        self.set_clip_path(axes.patch)

    def draw(self, renderer: RendererBase) -> None:
        """Draw what lies within the axes' limits."""
        if not self.get_visible() or self.axes is None:
            return
        boxes = _within(self.boxes, *sorted(self.axes.get_xlim()))
        dense = self._dense(boxes, renderer.get_image_magnification())
        if dense.any():
            self._draw_coverage(boxes.select(dense), renderer)
        if not dense.all():
            self._draw_polygons(boxes.select(~dense), renderer)
        self.stale = False

    def _dense(self, boxes: Boxes, magnification: float) -> NDArray[np.bool_]:
        """Which boxes belong to lanes whose ops are too narrow for polygons."""
        pixels = self._widths(boxes) * magnification
        dense = np.zeros(len(boxes), bool)
        for layer in np.unique(boxes.layer):
            own = boxes.layer == layer
            dense[own] = np.median(pixels[own]) < NARROW
        return dense

    def _widths(self, boxes: Boxes) -> Floats:
        """Widths in display units (pixels on the screen, points in vector files)."""
        scale = abs(float(self._pixels(np.array([[1.0, 0.0]]))[0, 0] - self._pixels(np.array([[0.0, 0.0]]))[0, 0]))
        return (boxes.right - boxes.left) * scale

    def _pixels(self, points: Floats) -> Floats:
        assert self.axes is not None
        return np.asarray(self.axes.transData.transform(points), np.float64)

    def _draw_polygons(self, boxes: Boxes, renderer: RendererBase) -> None:
        assert self.axes is not None
        points = 72.0 / self.axes.figure.dpi
        width = self._widths(boxes) * points
        corners = np.stack([boxes.left, boxes.bottom, boxes.right, boxes.top], axis=1)
        collection = PolyCollection(
            corners[:, [[0, 1], [0, 3], [2, 3], [2, 1]]],
            facecolors=boxes.colours[boxes.style],
            edgecolors="white",
            linewidths=np.clip(0.06 * width, 0.0, SEPARATOR),
            transform=self.axes.transData,
        )
        self._draw_child(collection, renderer)
        self._draw_numbers(boxes, width, points, renderer)

    def _draw_numbers(self, boxes: Boxes, width: Floats, points: float, renderer: RendererBase) -> None:
        """The micro-batch numbers that fit, dark on light boxes and white on dark ones."""
        ends = [np.stack([np.zeros(len(boxes)), edge], axis=1) for edge in (boxes.top, boxes.bottom)]
        height = np.abs(self._pixels(ends[1])[:, 1] - self._pixels(ends[0])[:, 1]) * points
        size, fits = labels.fit(boxes, width, height)
        inks = np.array([ink_on(colour) for colour in boxes.colours])
        for ink in np.unique(inks):
            own = np.flatnonzero(fits & (inks[boxes.style] == ink))
            if len(own):
                self._draw_child(self._numbers(boxes, own, size, str(ink)), renderer)

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

    def _draw_coverage(self, boxes: Boxes, renderer: RendererBase) -> None:
        """Average over the pixels of the file: of the screen, or of the raster that a vector file embeds."""
        assert self.axes is not None
        scale = renderer.get_image_magnification()
        frame = self.axes.bbox
        columns = np.arange(np.floor(frame.x0 * scale), np.ceil(frame.x1 * scale) + 1) / scale
        rows = np.arange(np.floor(frame.y0 * scale), np.ceil(frame.y1 * scale) + 1) / scale
        back = self.axes.transData.inverted()
        times = back.transform(np.stack([columns, np.full(len(columns), rows[0])], axis=1))[:, 0]
        heights = back.transform(np.stack([np.full(len(rows), columns[0]), rows], axis=1))[:, 1]
        image = coverage.paint(boxes, np.sort(times), np.sort(heights))
        image = image[:, ::-1] if times[0] > times[-1] else image
        image = image[::-1] if heights[0] > heights[-1] else image
        gc = renderer.new_gc()
        self._set_gc_clip(gc)
        renderer.draw_image(gc, columns[0], rows[0], np.ascontiguousarray(image))
        gc.restore()


def _within(boxes: Boxes, first: float, last: float) -> Boxes:
    """The boxes that reach into ``first..last`` seconds."""
    return boxes.select((boxes.right > first) & (boxes.left < last))
