"""Gantt charts show every op where and when it ran, at any density."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from timeline_frames import memory_of, run, run_torch, run_two_routes, with_communication

import pipesim
from pipesim.errors import PipesimError
from pipesim.report import bars, compare, labels
from pipesim.report.bars import Bars
from pipesim.report.boxes import STRIPE_HEIGHT, boxes_of
from pipesim.report.colours import STRIPE, paint, rgb
from pipesim.report.figures import encode, new_figure
from pipesim.report.gantt import gantt, rank_step
from pipesim.report.lanes import checked, choose_resources, lay_out

SPLIT = {"forward": 1, "input_grad": 1, "weight_grad": 1}


def boxes(frame, lanes=("compute",)):
    ops = checked(frame)
    return boxes_of(ops, lay_out(np.unique(ops["rank"]), choose_resources(ops, lanes)))


def artist(ax):
    return next(child for child in ax.get_children() if isinstance(child, Bars))


def drawn_labels(ax, monkeypatch):
    """What `labels.fit` decides while the figure is drawn: (size, fits) per call, with sizes in points."""
    calls = []
    original = labels.fit

    def spy(*arguments):
        calls.append((arguments, original(*arguments)))
        return calls[-1][1]

    monkeypatch.setattr(labels, "fit", spy)
    encode(ax.get_figure(root=True), "png", 100)
    return calls


def test_every_op_is_a_box_on_its_ranks_lane():
    """Left and right are the op's start and end, and no two boxes of a lane overlap."""
    frame = run("1f1b", 4, 8)
    found = boxes(frame)
    assert len(found) == len(frame) == 64
    assert found.left.tolist() == frame.start_s.tolist()
    assert found.right.tolist() == frame.end_s.tolist()
    assert found.label.tolist() == frame.microbatch.tolist()
    assert found.lane.tolist() == frame["rank"].tolist()
    assert len(np.unique(found.top)) == 4


def test_ranks_run_from_top_to_bottom():
    """Rank 0 is the topmost lane."""
    found = boxes(run("1f1b", 4, 8))
    assert (np.diff([found.top[found.lane == rank][0] for rank in range(4)]) > 0).all()
    low, high = gantt(run("1f1b", 4, 8)).get_ylim()
    assert low > high


def test_boxes_have_the_colour_of_their_kind():
    """Forward and backward of the first chunk have their legend colours."""
    frame = run("1f1b", 2, 2)
    found = boxes(frame)
    for kind in ("F", "B"):
        own = (frame.kind == kind).to_numpy()
        np.testing.assert_array_equal(found.colours[found.style[own]], np.tile(rgb(paint(kind).colour), (own.sum(), 1)))


def test_later_chunks_are_lighter():
    """Stage 4 of 4 ranks with two chunks is rank 0's second chunk: same hue, nearer to white."""
    frame = run("interleaved-1f1b", 4, 8, chunks=2)
    found = boxes(frame)
    first, second = (
        found.colours[found.style[((frame.stage == s) & (frame.kind == "F")).to_numpy()][0]] for s in (0, 4)
    )
    assert first.tolist() == rgb(paint("F").colour).tolist()
    assert (second > first).all()


def test_overlapped_pairs_share_the_height_of_a_lane():
    """The first op of a pair is the upper half, the second the lower half, over one interval."""
    frame = run_torch("DualPipeV_p4_m8_v2.csv", 4, v_shape=True)
    found = boxes(frame)
    height = found.bottom - found.top
    paired = (frame.pair >= 0).to_numpy()
    assert paired.sum() == 2 * frame.loc[paired, "pair"].nunique() > 0
    np.testing.assert_allclose(height[paired], 0.5)
    np.testing.assert_allclose(height[~paired], 1.0)
    first, second = np.flatnonzero(paired)[:2]
    assert found.left[first] == found.left[second]
    assert found.bottom[first] == pytest.approx(found.top[second])


def test_the_second_route_carries_a_stripe():
    """A dark stripe on top, and the rest of the box below it; the first route has none."""
    frame = run_two_routes(4, 8)
    found = boxes(frame)
    route = (frame.route == 1).to_numpy()
    stripes = len(found) - len(frame)
    assert stripes == route.sum()
    np.testing.assert_allclose((found.bottom - found.top)[-stripes:], STRIPE_HEIGHT)
    np.testing.assert_allclose((found.bottom - found.top)[: len(frame)][route], 1 - STRIPE_HEIGHT)
    half = len(found.colours) // 2
    np.testing.assert_allclose(found.colours[half:], found.colours[:half] * STRIPE)


def test_communication_lanes_are_drawn_on_request_only():
    """By default there is one lane per rank; ``all`` adds a thin one per further resource."""
    frame = with_communication(run("1f1b", 4, 8, hop=1))
    assert np.unique(boxes(frame).layer).tolist() == [0]
    everything = boxes(frame, "all")
    assert len(everything) == len(frame)
    heights = [np.unique((everything.bottom - everything.top)[everything.layer == i].round(6)) for i in range(3)]
    assert [h.tolist() for h in heights] == [[1.0], [0.42], [0.21]]


def test_an_ops_artist_does_not_depend_on_their_number():
    """4 x 8 and 16 x 64 charts have the same number of artists."""
    few, many = (len(gantt(run("1f1b", p, m)).get_children()) for p, m in ((4, 8), (16, 64)))
    assert few == many


def test_small_charts_carry_all_numbers_inside_their_boxes(monkeypatch):
    """At 4 x 8 every micro-batch number is drawn, and is smaller than its box."""
    calls = drawn_labels(gantt(run("1f1b", 4, 8)), monkeypatch)
    (found, width, height), (size, fits) = calls[-1]
    assert fits.all()
    text = np.array([labels.text_size(str(n)) for n in found.label]) * size[:, None]
    assert (text[:, 0] < width).all()
    assert (text[:, 1] < height).all()


def test_pairs_do_not_shrink_the_numbers_of_others(monkeypatch):
    """Half-height boxes have a font size of their own."""
    frame = run_torch("DualPipeV_p4_m8_v2.csv", 4, v_shape=True, times=(4, 4, 4))
    low = new_figure(10, 1.3).add_subplot()
    (_, _, height), (size, _) = drawn_labels(gantt(frame, low), monkeypatch)[-1]
    half = height < 0.7 * height.max()
    assert size[half].max() < size[~half].min()


def test_every_pair_of_a_comparison_carries_its_numbers(monkeypatch):
    """Half-height boxes beside whole ones of another plan, with one digit and with two."""
    for ranks, microbatches in ((4, 8), (8, 16)):
        setting = {"pipeline": {"ranks": ranks, "microbatches": microbatches}, "costs": SPLIT}
        figure = pipesim.compare({**setting, "schedule": "1f1b"}, ["gpipe", "dualpipe-v"]).plot()
        (found, _, height), (_, fits) = drawn_labels(figure.axes[3], monkeypatch)[-1]
        half = height < 0.7 * height.max()
        assert half.sum() > ranks * microbatches
        assert fits[half].all()
        assert (found.label[half] >= 0).all()


def test_boxes_with_little_less_room_carry_smaller_numbers():
    """The few that are lower than the others, by rounding or really, lose no number as long as the smallest fits."""
    found = boxes(run("1f1b", 4, 8))
    width, height = np.full(len(found), 20.0), np.full(len(found), 8.0)
    for lower, smaller in ((8.0 * (1 - 1e-12), 0.0), (7.0, 1.0)):
        height[5] = lower
        size, fits = labels.fit(found, width, height)
        assert fits.all()
        assert len(np.unique(np.delete(size, 5))) == 1
        assert size[4] - size[5] == pytest.approx(smaller, abs=labels.STEP)
        assert size[5] * labels.text_size("0")[1] < lower


def test_numbers_that_do_not_fit_are_left_out(monkeypatch):
    """At 16 x 64 in the default width no forward is wide enough for its number."""
    frame = run("1f1b", 16, 64)
    (found, width, _), (_, fits) = drawn_labels(gantt(frame), monkeypatch)[-1]
    forward = found.colours[found.style] == rgb(paint("F").colour)
    assert not fits[forward.all(axis=1)].any()
    widest = labels.text_size("63")[0] * labels.SMALLEST
    assert width[forward.all(axis=1)].max() < widest + labels.PADDING


def test_numbers_of_one_kind_depend_on_the_width_of_their_boxes(monkeypatch):
    """Of forwards seven times as wide as others, numbers are drawn, although those of the others do not fit."""
    frame = run("1f1b", 4, 8)
    forwards = frame.kind == "F"
    narrow = forwards & (frame.microbatch % 2 == 1)
    frame.loc[narrow, "end_s"] = frame.start_s[narrow] + (frame.end_s - frame.start_s)[narrow] / 7
    (found, width, _), (_, fits) = drawn_labels(gantt(frame), monkeypatch)[-1]
    assert fits.tolist() == (width > 2 * width.min()).tolist()
    assert (found.label[~fits] % 2 == 1).all()
    assert 0 < (~fits).sum() == narrow.sum()


def test_by_default_all_that_works_is_drawn():
    """Copies to the host beside compute, and the second engine; transfers only if they are asked for."""
    costs = {"costs": {"p2p": 0.1, "offload": 2}, "pipeline": {"ranks": 2, "microbatches": 8}}
    for schedule, lanes in (
        ({"name": "pipe-offload"}, ["compute", "host"]),
        ({"name": "layerpipe2", "engines": 2}, ["compute", "update"]),
        ({"name": "1f1b"}, ["compute"]),
    ):
        frame = pipesim.simulate({**costs, "schedule": schedule}).timeline
        assert choose_resources(checked(frame), None) == lanes
        assert "p2p" in choose_resources(checked(frame), "all")


def test_text_is_measured_not_guessed():
    """Two digits are wider than one by one advance of the font: 0.636 of its size, as DejaVu Sans says."""
    one, two = labels.text_size("8"), labels.text_size("88")
    assert two[0] - one[0] == pytest.approx(0.636, abs=0.002)
    assert two[1] == one[1]


def test_all_digits_count_as_equally_high():
    """So that of equal boxes all carry their numbers or none, whatever the digits."""
    assert {labels.text_size(digit)[1] for digit in "0123456789"} == {max(_drawn_height(d) for d in "0123456789")}


def _drawn_height(digit):
    return labels.glyphs(digit).get_extents().height


def test_dense_charts_say_that_heights_are_shares():
    """At 64 x 512 the note is drawn; zoomed in to a few ops it is not."""
    ax = gantt(run("1f1b", 64, 512))
    assert artist(ax)._too_fine(artist(ax).boxes)
    assert bars.NOTE in svg_text(ax)
    ax.set_xlim(1.0, 1.05)
    assert bars.NOTE not in svg_text(ax)


def test_a_comparison_says_once_that_heights_are_shares():
    """Whichever of its charts is too fine, and not where none is."""
    fine, coarse = (("plan", {}, run("1f1b", *shape), None) for shape in ((64, 512), (4, 8)))
    for runs, times in (([coarse, coarse], 0), ([fine, coarse], 1), ([fine, fine], 1)):
        assert encode(compare.figure(runs), "svg", 72).decode().count(f"<!-- {bars.NOTE} -->") == times


def test_the_note_is_seen_outside_the_axes():
    """Above a chart by itself, below the last one of a comparison: dark pixels where there are none without it."""
    frame = run("1f1b", 64, 512)
    for figure in (gantt(frame).figure, compare.figure([("plan", {}, frame, None)])):
        ax = figure.axes[0]
        note = next(child for child in ax.get_children() if isinstance(child, bars.Note))
        with_note = np.asarray(Image.open(io.BytesIO(encode(figure, "png", 72))), int)
        box = note.get_window_extent()
        assert box.y0 > ax.bbox.y1 or box.y1 < ax.bbox.y0
        note.bars = []
        without = np.asarray(Image.open(io.BytesIO(encode(figure, "png", 72))), int)
        assert (with_note != without).any(axis=2).sum() > 100


def svg_text(ax):
    """The figure as SVG, where the backend repeats every text in a comment."""
    return encode(ax.get_figure(root=True), "svg", 72).decode()


def test_dense_picture_shows_the_right_shares():
    """Half way through 64 x 512, a rank's lane is a third forward and two thirds backward in height."""
    figure = Figure(figsize=(10, 6.4))
    ax = figure.add_axes((0, 0, 1, 1))
    gantt(run("1f1b", 64, 512), ax, legend=False)
    ax.set_axis_off()
    pixels = np.asarray(Image.open(io.BytesIO(encode(figure, "png", 100))).convert("RGB"), float) / 255
    column = pixels[:, 500]
    share = {k: np.abs(column - rgb(paint(k).colour)).sum(axis=1) < 0.1 for k in ("F", "B")}
    # Lanes are 10 pixels with a gap of a sixth, so rounding to pixels moves a share by several per cent.
    assert share["F"].mean() == pytest.approx(1 / 3 * 1 / 1.2, abs=0.1)
    assert share["B"].mean() == pytest.approx(2 / 3 * 1 / 1.2, abs=0.12)


def test_critical_path_by_rows_and_by_times_is_the_same_line():
    """Row positions and (rank, start, end) triples are two ways to say one thing."""
    frame = run("1f1b", 4, 8)
    rows = [0, int(np.flatnonzero((frame["rank"] == 1) & (frame.microbatch == 0) & (frame.kind == "F"))[0])]
    triples = [(int(frame["rank"][i]), frame.start_s[i], frame.end_s[i]) for i in rows]
    lines = [gantt(frame, critical_path=path).lines[0].get_xydata() for path in (rows, triples)]
    np.testing.assert_array_equal(*lines)
    assert lines[0][:, 0].tolist() == [t for triple in triples for t in triple[1:]]


def test_critical_path_outside_the_timeline_is_an_error():
    """A row that does not exist is named, with the number of rows."""
    with pytest.raises(PipesimError, match="row 999 of a timeline with 64 ops"):
        gantt(run("1f1b", 4, 8), critical_path=[999])


def test_memory_lies_underneath_on_the_same_time_axis():
    """Two axes, the memory's below, with one set of limits and one time label."""
    frame = run("1f1b", 4, 8)
    ax = gantt(frame, memory=memory_of(frame), capacity_bytes=80e9)
    below = ax.figure.axes[1]
    assert below.get_xlim() == ax.get_xlim() == (0.0, frame.end_s.max())
    assert (ax.get_xlabel(), below.get_xlabel()) == ("", "time (ms)")
    ax.set_xlim(0.01, 0.02)
    assert below.get_xlim() == (0.01, 0.02)


def test_given_axes_are_used_and_returned():
    """Axes in, axes out, with memory taking the lower part of their place."""
    figure = new_figure(8, 4)
    ax = figure.add_subplot()
    frame = run("1f1b", 4, 8)
    assert gantt(frame, ax, memory=memory_of(frame), title="mine") is ax
    assert len(figure.axes) == 2
    assert ax.get_title(loc="left") == "mine"


def test_the_time_unit_fits_the_step_or_is_the_one_asked_for():
    """66 ms are labelled in ms; abstract costs get no unit; ticks stay in seconds."""
    frame = run("1f1b", 4, 8)
    assert gantt(frame).get_xlabel() == "time (ms)"
    assert gantt(frame, time_unit="us").get_xlabel() == "time (µs)"
    assert gantt(frame, time_unit="unit").get_xlabel() == "time"
    assert gantt(frame).xaxis.get_major_formatter()(0.02, 0) == "20"


def test_the_legend_names_what_is_there():
    """Kinds, chunks, bubbles, critical path; nothing that does not occur."""
    ax = gantt(run_torch("ZBVZeroBubble_p4_m8_v2.csv", 4, v_shape=True), critical_path=[0])
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    expected = ["forward", "backward for input", "backward for weights", "chunk 0, 1", "bubble", "critical path"]
    assert names == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns=["kind", "stage"]), "missing: kind, stage"),
        (lambda f: f.iloc[:0], "no ops"),
    ],
)
def test_unusable_timelines_are_refused(change, message):
    """The message says what is missing."""
    with pytest.raises(PipesimError, match=message):
        gantt(change(run("1f1b", 2, 2)))


def test_unknown_lanes_and_units_get_a_suggestion():
    """What was asked for, what there is, what was probably meant."""
    frame = with_communication(run("1f1b", 4, 8))
    with pytest.raises(PipesimError, match=r"no lane 'p2p-sent'; it has: compute, collective, p2p-send; .*'p2p-send'"):
        gantt(frame, lanes=("compute", "p2p-sent"))
    with pytest.raises(PipesimError, match=r"time unit 'mss' is unknown; allowed: s, ms, us, ns, ps, unit; .*'ms'"):
        gantt(frame, time_unit="mss")


def test_categorical_columns_are_fine():
    """Timelines often come with categorical kinds and resources."""
    frame = run("1f1b", 4, 8)
    typed = frame.assign(kind=pd.Categorical(frame.kind), resource=pd.Categorical(frame.resource))
    assert boxes(typed).style.tolist() == boxes(frame).style.tolist()


def test_the_given_timeline_is_not_changed():
    """Drawing fills in routes and pairs in a copy."""
    frame = run_torch("DualPipeV_p4_m8_v2.csv", 4, v_shape=True).drop(columns="route")
    before = frame.copy(deep=True)
    gantt(frame)
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize(("ranks", "room", "step"), [(4, 100, 1), (64, 460, 2), (64, 100, 8), (1, 1, 1)])
def test_rank_numbers_are_thinned_to_powers_of_two(ranks, room, step):
    """Every number has at least 10 points."""
    assert rank_step(ranks, room) == step


def test_no_pyplot():
    """Drawing leaves matplotlib's global state alone: pyplot is not even imported."""
    code = (
        "import sys, pandas as pd\n"
        "from pipesim.report.gantt import gantt\n"
        "from pipesim.report.figures import encode\n"
        "row = dict(rank=0, resource='compute', kind='F', stage=0, microbatch=0, start_s=0.0, end_s=1.0)\n"
        "encode(gantt(pd.DataFrame([row])).figure, 'png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
