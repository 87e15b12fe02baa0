"""Colours can be told apart, by everyone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipesim.ir.op import Kind
from pipesim.report.colours import CATEGORIES, IDLE, PAINTS, chunk_shade, ink_on, paint, rgb

# Machado, Oliveira and Fernandes, IEEE TVCG 15(6), 2009, table of severity 1.0, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colour, vision):
    """CIELAB (D65) of an sRGB colour as somebody sees it."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(VISION[vision]) @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ linear / np.array([0.9505, 1.0, 1.089]))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_every_kind_has_a_colour():
    """Nothing that a simulation can emit falls back to grey."""
    assert set(PAINTS) == set(Kind.__members__)


@pytest.mark.parametrize("vision", VISION)
def test_compute_kinds_differ_for_everyone(vision):
    """Any two of F, B, I, W, RECOMPUTE, OPT and the idle background are far apart, seen with any kind of eyes."""
    shown = {kind: rgb(PAINTS[kind].colour) for kind in ("F", "B", "I", "W", "RECOMPUTE", "OPT")} | {"idle": rgb(IDLE)}
    for (one, a), (two, b) in itertools.combinations(shown.items(), 2):
        # A CIE76 distance of 2.3 is just noticeable; 10 is plain to see side by side.
        assert np.linalg.norm(lab(a, vision) - lab(b, vision)) > 10, (one, two)


@pytest.mark.parametrize("vision", VISION)
def test_neighbouring_memory_categories_differ_for_everyone(vision):
    """Categories that touch in the stack are told apart."""
    for one, two in itertools.pairwise(CATEGORIES):
        distance = lab(rgb(CATEGORIES[one]), vision) - lab(rgb(CATEGORIES[two]), vision)
        assert np.linalg.norm(distance) > 10, (one, two)


@pytest.mark.parametrize("chunks", [2, 4, 8])
def test_chunks_grow_lighter_and_never_white(chunks):
    """Each chunk's shade is lighter than the one before and darker than the background."""
    shades = [chunk_shade(rgb(PAINTS["F"].colour), chunk, chunks) for chunk in range(chunks)]
    lightness = [lab(shade, "normal")[0] for shade in shades]
    assert (np.diff(lightness) > 0).all()
    assert lightness[-1] < lab(rgb(IDLE), "normal")[0]


def test_unknown_kinds_are_grey():
    """An imported trace may have kinds of its own."""
    assert paint("ALLTOALL").name == "other"


def test_numbers_are_dark_on_light_and_white_on_dark():
    """White on the recompute navy, dark on the weight-gradient yellow."""
    assert ink_on(rgb(PAINTS["RECOMPUTE"].colour)) == "#ffffff"
    assert ink_on(rgb(PAINTS["W"].colour)) != "#ffffff"
