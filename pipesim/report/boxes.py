"""Ops as coloured rectangles: the arrays that a chart is drawn from."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipesim.report.colours import ON_DARK, STRIPE, chunk_shade, in_legend_order, paint, rgb
from pipesim.report.lanes import COMPUTE, Lanes, chunk_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STRIPED_ROUTES = 4
"""More routes than this are not told apart: there is no room for so many stripes."""

STRIPE_HEIGHT = 0.14
"""Height of the second route's stripe, as a share of the op's; the third's is twice as high, and so on."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """Rectangles, arrays of shape (n,): ``left``/``right`` in seconds, ``top``/``bottom`` downwards in lanes.

    ``style`` indexes ``colours`` (k, 3); ``lane`` numbers the lanes and ``layer`` the resources, whose boxes
    are drawn alike; ``label`` is a micro-batch, or -1 for none. Later boxes lie on top of earlier ones.
    """

    left: Floats
    right: Floats
    top: Floats
    bottom: Floats
    style: Ints
    lane: Ints
    layer: Ints
    label: Ints
    colours: Floats

    def __len__(self) -> int:
        return len(self.left)

    def select(self, keep: NDArray[np.bool_] | Ints) -> Boxes:
        """The boxes at some positions, or for which ``keep`` holds."""
        return Boxes(
            self.left[keep],
            self.right[keep],
            self.top[keep],
            self.bottom[keep],
            self.style[keep],
            self.lane[keep],
            self.layer[keep],
            self.label[keep],
            self.colours,
        )


def boxes_of(frame: pd.DataFrame, lanes: Lanes) -> Boxes:
    """One box per op on a lane, half as high for overlapped pairs, and a stripe on ops of the second route on.

    ``frame`` is a checked timeline.
    """
    chunk = chunk_of(frame)
    drawn = frame["resource"].isin(lanes.resources).to_numpy() & (frame["end_s"] > frame["start_s"]).to_numpy()
    drawn &= frame["rank"].isin(lanes.ranks).to_numpy()
    ops, chunk = frame[drawn], np.maximum(chunk[drawn], 0)
    row, column = lanes.find(ops["rank"].to_numpy(np.int64), ops["resource"].tolist())
    top, bottom = _split_pairs(ops, lanes.top[row, column], lanes.bottom[row, column])
    top, bottom = _split_directions(ops, top, bottom)
    style, looks = styles(ops["kind"].to_numpy(), chunk)
    ordinary = Boxes(
        left=ops["start_s"].to_numpy(np.float64),
        right=ops["end_s"].to_numpy(np.float64),
        top=top,
        bottom=bottom,
        style=style,
        lane=row * len(lanes.resources) + column,
        layer=column,
        label=np.where(ops["resource"] == COMPUTE, ops["microbatch"], -1).astype(np.int64),
        colours=np.array([look.colour for look in looks]).reshape(-1, 3),
    )
    return _with_stripes(ordinary, ops["route"].to_numpy(np.int64))


def _split_pairs(ops: pd.DataFrame, top: Floats, bottom: Floats) -> tuple[Floats, Floats]:
    """Give the first op of each overlapped pair the upper half of its lane and the second the lower half."""
    place = ops.groupby(["rank", "resource", "pair"]).cumcount().to_numpy()
    count = ops.groupby(["rank", "resource", "pair"])["pair"].transform("size").to_numpy()
    paired = (ops["pair"] >= 0).to_numpy()
    share = np.where(paired, (bottom - top) / np.maximum(count, 1), bottom - top)
    new_top = top + np.where(paired, place, 0) * share
    return new_top, new_top + share


def _split_directions(ops: pd.DataFrame, top: Floats, bottom: Floats) -> tuple[Floats, Floats]:
    """On communication lanes, activations travel in the upper half and gradients in the lower: both may at once."""
    kind, beside = ops["kind"], (ops["resource"] != COMPUTE).to_numpy()
    up, down = (beside & kind.isin(names).to_numpy() for names in (("SEND_F", "RECV_F"), ("SEND_B", "RECV_B")))
    if not (up.any() and down.any()):
        return top, bottom
    middle = (top + bottom) / 2
    return np.where(down, middle, top), np.where(up, middle, bottom)


class Look(NamedTuple):
    """What a style stands for, its colour, and its colour on a dark page."""

    kind: str
    name: str
    chunk: int
    colour: Floats
    on_dark: Floats


def styles(kind: NDArray[np.object_], chunk: Ints) -> tuple[Ints, list[Look]]:
    """The style of every op: one per (kind, chunk) that occurs, in legend order."""
    chunks = int(chunk.max(initial=0)) + 1
    kinds = in_legend_order(set(kind))
    place = {name: i for i, name in enumerate(kinds)}
    used, style = np.unique(np.array([place[name] for name in kind], np.int64) * chunks + chunk, return_inverse=True)
    looks = [_look(kinds[u // chunks], int(u % chunks), chunks) for u in used]
    return style.astype(np.int64), looks


def _look(kind: str, chunk: int, chunks: int) -> Look:
    colour, name = paint(kind)
    dark = ON_DARK.get(kind, colour)
    return Look(kind, name, chunk, *(chunk_shade(rgb(each), chunk, chunks) for each in (colour, dark)))


def stripe_share(route: Ints, routes: int) -> Floats:
    """Height of the stripe on ops of each route, as a share of the op's: none on the first route."""
    if not 2 <= routes <= STRIPED_ROUTES:
        return np.zeros(len(route))
    return STRIPE_HEIGHT * np.maximum(route, 0)


def _with_stripes(boxes: Boxes, route: Ints) -> Boxes:
    """Put a dark stripe on top of every micro-batch's box that is not on the first route."""
    share = stripe_share(route, int(route.max(initial=0)) + 1) * (boxes.label >= 0)
    edge = boxes.top + share * (boxes.bottom - boxes.top)
    striped = np.flatnonzero(share > 0)
    if not len(striped):
        return boxes
    body, stripe = replace(boxes, top=edge), boxes.select(striped)
    stripe = replace(
        stripe,
        bottom=edge[striped],
        style=stripe.style + len(boxes.colours),
        label=np.full(len(striped), -1),
        colours=np.concatenate([boxes.colours, boxes.colours * STRIPE]),
    )
    return concatenate(body, stripe)


def concatenate(first: Boxes, second: Boxes) -> Boxes:
    """Both, the second on top; the second's colours begin with the first's."""
    columns = {
        field.name: np.concatenate([getattr(first, field.name), getattr(second, field.name)])
        for field in fields(Boxes)
        if field.name != "colours"
    }
    return Boxes(**columns, colours=second.colours)
