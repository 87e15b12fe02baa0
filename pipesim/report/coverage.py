"""Boxes narrower than a pixel, drawn truthfully: every pixel shows the share of its time that each colour holds.

Drawing tens of thousands of sub-pixel rectangles one over the other loses bubbles or invents them, as each is
rounded or blended by itself. Here every pixel is averaged exactly over its area, so a lane that is idle a
third of the time looks a third idle at any zoom.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipesim.report.boxes import Boxes

Floats = NDArray[np.float64]


def paint(boxes: Boxes, time_edges: Floats, row_edges: Floats) -> NDArray[np.uint8]:
    """An image of the boxes, RGBA of shape (rows, columns, 4), straight alpha.

    ``time_edges`` (columns + 1,) are the pixel borders in seconds, ``row_edges`` (rows + 1,) in lanes; both
    ascend. Boxes that share top and bottom must not overlap in time, unless they are of different styles.
    """
    edges = np.unique(np.concatenate([boxes.top, boxes.bottom]))
    canvas = np.zeros((max(len(edges) - 1, 0), len(time_edges) - 1, 4))
    for top, bottom, group in _bands(boxes):
        rows = slice(int(np.searchsorted(edges, top)), int(np.searchsorted(edges, bottom)))
        colour = _band(boxes, group, time_edges)
        canvas[rows] = canvas[rows] * (1.0 - colour[:, 3:]) + colour
    return _to_bytes(_overlaps(edges, row_edges) @ canvas.reshape(len(canvas), -1), canvas.shape[1])


def coverage(left: Floats, right: Floats, edges: Floats) -> Floats:
    """Share of every interval between ``edges`` that lies within the intervals ``left..right``, shape (edges - 1,).

    The intervals are sorted and do not overlap.
    """
    corners = np.stack([left, right], axis=1).ravel()
    covered = np.zeros(len(corners))
    covered[1::2] = right - left
    until = np.interp(edges, corners, np.cumsum(covered))
    share: Floats = np.clip(np.diff(until) / np.diff(edges), 0.0, 1.0)
    return share


def _bands(boxes: Boxes) -> list[tuple[float, float, NDArray[np.int64]]]:
    """Boxes grouped by top and bottom, in the order in which the groups first occur."""
    if not len(boxes):
        return []
    _, first, group = np.unique(np.stack([boxes.top, boxes.bottom]), axis=1, return_index=True, return_inverse=True)
    group = group.ravel()
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    return [(float(boxes.top[first[g]]), float(boxes.bottom[first[g]]), members[g]) for g in np.argsort(first)]


def _band(boxes: Boxes, group: NDArray[np.int64], time_edges: Floats) -> Floats:
    """Premultiplied RGBA of one band, shape (columns, 4)."""
    result = np.zeros((len(time_edges) - 1, 4))
    group = group[np.argsort(boxes.left[group], kind="stable")]
    for style in np.unique(boxes.style[group]):
        own = group[boxes.style[group] == style]
        share = coverage(boxes.left[own], boxes.right[own], time_edges)
        result += share[:, None] * np.append(boxes.colours[style], 1.0)
    return result / np.maximum(result[:, 3:], 1.0)


def _overlaps(edges: Floats, row_edges: Floats) -> Floats:
    """Share of every pixel row that each interval of ``edges`` fills, shape (rows, intervals)."""
    low = np.maximum(row_edges[:-1, None], edges[None, :-1])
    high = np.minimum(row_edges[1:, None], edges[None, 1:])
    share: Floats = np.maximum(high - low, 0.0) / np.diff(row_edges)[:, None]
    return share


def _to_bytes(premultiplied: Floats, columns: int) -> NDArray[np.uint8]:
    """Premultiplied floats as straight-alpha bytes, shape (rows, columns, 4)."""
    pixels = premultiplied.reshape(-1, columns, 4)
    alpha = pixels[..., 3:]
    pixels[..., :3] /= np.where(alpha > 0, alpha, 1.0)
    return np.rint(np.clip(pixels, 0.0, 1.0) * 255).astype(np.uint8)
