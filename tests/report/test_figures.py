"""Pictures are the same bytes every time, and are there whole or not at all."""

from __future__ import annotations

import pytest
from timeline_frames import memory_of, run

from pipesim.errors import PipesimError
from pipesim.report.figures import FORMATS, encode, root_figure, save
from pipesim.report.gantt import gantt


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("ranks", "microbatches"), [(4, 8), (16, 256)])
def test_the_same_chart_is_the_same_file(suffix, ranks, microbatches, tmp_path):
    """Drawn twice, as polygons or as shares of time, a chart is byte-identical."""
    frame = run("1f1b", ranks, microbatches)
    files = [save(root_figure(gantt(frame)), tmp_path / f"{n}.{suffix}", dpi=80) for n in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("start", [b"\x89PNG", b"<?xml", b"%PDF"])
def test_the_suffix_says_the_format(start, tmp_path):
    """Files begin as their formats do; upper case is understood."""
    suffix = {b"\x89PNG": ".PNG", b"<?xml": ".svg", b"%PDF": ".pdf"}[start]
    assert save(root_figure(gantt(run("1f1b", 2, 2))), tmp_path / f"a{suffix}").read_bytes().startswith(start)


@pytest.mark.parametrize("name", ["a.jpg", "a"])
def test_other_suffixes_are_refused_with_a_list(name, tmp_path):
    """The message lists what is allowed, and nothing is written."""
    with pytest.raises(PipesimError, match=r"allowed: \.png, \.svg, \.pdf"):
        save(root_figure(gantt(run("1f1b", 2, 2))), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_an_error_and_leaves_nothing(tmp_path):
    """No traceback of the operating system's."""
    with pytest.raises(PipesimError, match="cannot be written: No such file"):
        save(root_figure(gantt(run("1f1b", 2, 2))), tmp_path / "no" / "a.png")


def test_a_failed_drawing_keeps_the_old_file(tmp_path, monkeypatch):
    """The new file replaces the old one only when complete, and no scraps stay."""
    import os

    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(PipesimError, match="No space left"):
        save(root_figure(gantt(run("1f1b", 2, 2))), target)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.png", b"old")]


def test_notebooks_show_axes_and_figures():
    """Both render as PNG although no pyplot is involved."""
    frame = run("1f1b", 2, 2)
    for ax in (gantt(frame), gantt(frame, memory=memory_of(frame))):
        assert ax._repr_png_().startswith(b"\x89PNG")
        assert root_figure(ax)._repr_png_() == ax._repr_png_()


def test_vector_files_have_no_op_as_an_artist_of_its_own():
    """A 4 x 8 chart's SVG has one group for the boxes and few for everything else."""
    text = encode(root_figure(gantt(run("1f1b", 4, 8))), "svg").decode()
    assert text.count('<g id="PolyCollection') <= 3
    assert text.count("<image") == 0
