"""Figures and files: no global state, the same bytes every time, never half a file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipesim.errors import PipesimError
from pipesim.files import write_atomically

FORMATS = ("png", "svg", "pdf")
DPI = 200
"""Pixels per inch of png files, and of what is drawn per pixel in the other two."""

_SALT: Any = {"svg.hashsalt": "pipesim", "pdf.fonttype": 42}
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""Without dates and versions, two runs write the same bytes."""


SCREEN_DPI = 110
"""Pixels per inch in notebooks."""


class Picture(Figure):
    """A figure that notebooks show although it belongs to no pyplot."""

    def _repr_png_(self) -> bytes:
        return encode(self, "png", SCREEN_DPI)


class PictureAxes(Axes):
    """Axes that notebooks show as the whole figure they lie in."""

    def _repr_png_(self) -> bytes:
        return encode(root_figure(self), "png", SCREEN_DPI)


SHOWN: dict[str, Any] = {"axes_class": PictureAxes}
"""What to pass to ``add_subplot`` for axes that notebooks show."""


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure, sizes in inches, that belongs to no window and no pyplot."""
    return Picture(figsize=(width, height), layout="constrained", facecolor="white")


def root_figure(axes: Axes) -> Figure:
    """The figure that axes lie in, however deep."""
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def save(figure: Figure, path: str | Path, dpi: float = DPI) -> Path:
    """Write a figure as png, svg or pdf, by the suffix of ``path``; all of the file or nothing.

    Raises:
        PipesimError: the suffix is another one, or the file cannot be written.
    """
    target = Path(path)
    suffix = target.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        allowed = ", ".join(f".{name}" for name in FORMATS)
        raise PipesimError(
            f"{target}: cannot write a figure as {target.suffix or 'a file without suffix'!r}; allowed: {allowed}"
        )
    write_atomically(target, encode(figure, suffix, dpi))
    return target


def encode(figure: Figure, format: str, dpi: float = DPI) -> bytes:
    """The bytes of a figure as ``png``, ``svg`` or ``pdf``."""
    out = io.BytesIO()
    with matplotlib.rc_context(_SALT):
        figure.savefig(out, format=format, dpi=dpi, metadata=_METADATA[format])
    return out.getvalue()
