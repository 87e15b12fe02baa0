"""Ops too narrow to be drawn one by one, drawn truthfully: each column's height is divided by share of time.

Tens of thousands of rectangles finer than a pixel either hide each other or mix into a colour that means
nothing. Here a lane that runs forwards for a third of the time and backwards for the rest is a third blue and
two thirds orange in height, and what is idle shows as background: areas are right at any resolution. Idle
intervals and runs of one kind that are long enough to be seen keep their exact borders.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.report.boxes import Boxes

Floats = NDArray[np.float64]


def paint(boxes: Boxes, time_edges: Floats, row_edges: Floats, window_s: float) -> NDArray[np.uint8]:
    """An image of the boxes, RGBA of shape (rows, columns, 4), straight alpha, idle time transparent.

    ``time_edges`` (columns + 1,) are the pixel borders in seconds, ``row_edges`` (rows + 1,) in lanes; both
    ascend. Where ops alternate, shares are averaged over about ``window_s`` around each column, so that a
    pattern finer than that becomes an even one; idle intervals and runs of a third of it are drawn exactly.
    """
    image = np.zeros((len(row_edges) - 1, len(time_edges) - 1, 4))
    kernel = smoothing(window_s / float(time_edges[1] - time_edges[0]))
    for lane in np.unique(boxes.lane):
        own = boxes.select(np.flatnonzero(boxes.lane == lane))
        own = own.select(np.argsort(own.left, kind="stable"))
        styles, share = _shares(own, time_edges, kernel, window_s / 3)
        _stack(image, row_edges, own, boxes.colours[styles], share)
    return _to_bytes(image)


def coverage(left: Floats, right: Floats, edges: Floats) -> Floats:
    """Share of every interval between ``edges`` that lies within the intervals ``left..right``, shape (edges - 1,).

    The intervals are sorted by ``left``; what several of them cover counts once.
    """
    until = np.maximum.accumulate(right)
    left = np.maximum(left, np.concatenate([left[:1], until[:-1]]))
    corners = np.stack([left, np.maximum(left, until)], axis=1).ravel()
    covered = np.zeros(len(corners))
    covered[1::2] = corners[1::2] - left
    total = np.interp(edges, corners, np.cumsum(covered))
    share: Floats = np.clip(np.diff(total) / np.diff(edges), 0.0, 1.0)
    return share


def smoothing(pixels: float) -> Floats:
    """A Hann window over so many pixels, summing to 1: it leaves next to no ripple of a pattern much finer."""
    half = int(np.ceil(pixels / 2))
    kernel = np.hanning(2 * half + 3)[1:-1]
    return np.asarray(kernel / kernel.sum(), np.float64)


def _smooth(row: Floats, kernel: Floats) -> Floats:
    half = len(kernel) // 2
    full = np.convolve(row, kernel)
    return full[half : half + len(row)]


def _shares(boxes: Boxes, edges: Floats, kernel: Floats, long_s: float) -> tuple[NDArray[np.int64], Floats]:
    """Styles of one lane's boxes, topmost first, and the share of the lane's area that each holds per column."""
    in_run = long_runs(boxes, long_s)
    mixed = 1.0 - coverage(*_idle(boxes, edges, long_s), edges) - _covered(boxes.select(in_run), edges)
    mixed = np.clip(mixed, 0.0, 1.0)
    even = mixed / np.maximum(_smooth(mixed, kernel), 1e-9)
    height = float(boxes.bottom.max() - boxes.top.min())
    styles = np.unique(boxes.style)
    rows = []
    for style in styles:
        own = boxes.style == style
        exact, alternating = (_area(boxes.select(own & part), edges) / height for part in (in_run, ~in_run))
        rows.append(exact + _smooth(alternating, kernel) * even)
    areas = np.array(rows)
    areas /= np.maximum(areas.sum(axis=0), 1.0)
    mean_top = [float(boxes.top[boxes.style == style].mean()) for style in styles]
    order = np.lexsort((styles, np.round(mean_top, 6)))
    return styles[order], areas[order]


def long_runs(boxes: Boxes, long_s: float) -> NDArray[np.bool_]:
    """Which boxes, sorted by start, belong to a run of one style without pause that lasts at least ``long_s``."""
    pause = boxes.left[1:] > boxes.right[:-1] + 1e-6 * long_s
    breaks = (np.diff(boxes.style) != 0) | pause | (boxes.top[1:] != boxes.top[:-1])
    run = np.concatenate([[0], np.cumsum(breaks)])
    first = np.concatenate([[0], np.flatnonzero(breaks) + 1])
    last = np.concatenate([np.flatnonzero(breaks), [len(boxes) - 1]])
    long: NDArray[np.bool_] = (boxes.right[last] - boxes.left[first] >= long_s)[run]
    return long


def _idle(boxes: Boxes, edges: Floats, long_s: float) -> tuple[Floats, Floats]:
    """Starts and ends of idle intervals: those of at least ``long_s``, and before the first op and after the last."""
    until = np.maximum.accumulate(boxes.right)
    start = np.concatenate([[min(edges[0], boxes.left[0])], until])
    end = np.concatenate([boxes.left, [max(edges[-1], until[-1])]])
    keep = end - start >= long_s
    keep[[0, -1]] = True
    return start[keep], end[keep]


def _covered(boxes: Boxes, edges: Floats) -> Floats:
    """Share of each column that boxes of a run cover, whatever their height."""
    return coverage(boxes.left, boxes.right, edges) if len(boxes) else np.zeros(len(edges) - 1)


def _area(boxes: Boxes, edges: Floats) -> Floats:
    """Share of each column that sorted boxes of one style cover, times their height."""
    area = np.zeros(len(edges) - 1)
    for top, bottom in np.unique(np.stack([boxes.top, boxes.bottom]), axis=1).T:
        own = (boxes.top == top) & (boxes.bottom == bottom)
        area += coverage(boxes.left[own], boxes.right[own], edges) * (bottom - top)
    return area


def _stack(image: Floats, row_edges: Floats, boxes: Boxes, colours: Floats, share: Floats) -> None:
    """Stack one lane's shares, first style on top, onto the premultiplied image; pixels are averaged exactly."""
    top, bottom = float(boxes.top.min()), float(boxes.bottom.max())
    first, last = np.searchsorted(row_edges, [top, bottom])
    rows = slice(max(int(first) - 1, 0), int(last))
    upper, lower = row_edges[rows, None], row_edges[rows.start + 1 : rows.stop + 1, None]
    border = top + np.vstack([np.zeros(share.shape[1]), np.cumsum(share, axis=0)]) * (bottom - top)
    for i, colour in enumerate(colours):
        overlap = np.minimum(lower, border[i + 1]) - np.maximum(upper, border[i])
        weight = np.maximum(overlap, 0.0) / (lower - upper)
        image[rows] += weight[..., None] * np.append(colour, 1.0)


def _to_bytes(premultiplied: Floats) -> NDArray[np.uint8]:
    """Premultiplied floats as straight-alpha bytes."""
    alpha = premultiplied[..., 3:]
    premultiplied[..., :3] /= np.where(alpha > 0, alpha, 1.0)
    return np.rint(np.clip(premultiplied, 0.0, 1.0) * 255).astype(np.uint8)
