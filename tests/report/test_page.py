"""The HTML report: one file, the right numbers in it, and a browser that shows them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from importlib import resources

import numpy as np
import pytest
from browser import Browser, Page, needs_browser

import pipesim
from pipesim.report.colours import rgb

SMALL = {
    "pipeline": {"ranks": 4, "microbatches": 8},
    "costs": {"forward": 3, "input_grad": 4, "weight_grad": 5, "p2p": 2},
    "schedule": "1f1b",
}
LARGE = {
    "pipeline": {"ranks": 64, "microbatches": 512},
    "costs": {"forward": 3, "input_grad": 4, "weight_grad": 3.5, "p2p": 0.2},
    "schedule": "zb-h1",
}


def page_of(result, directory):
    return result.write_html(directory / "report.html").read_text()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """1F1B on four ranks with eight micro-batches: the result, and its page."""
    result = pipesim.simulate(SMALL)
    return result, page_of(result, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """98,304 ops: ZB-H1 on 64 ranks with 512 micro-batches."""
    result = pipesim.simulate(LARGE, engine="compiled")
    return result, page_of(result, tmp_path_factory.mktemp("large"))


def unpacked(page):
    """Contents and arrays, read as the page's script reads them."""
    contents = json.loads(re.search(r'id="index">(.*?)</script>', page, re.S)[1])
    raw = gzip.decompress(base64.b64decode(re.search(r'id="data">(.*?)</script>', page, re.S)[1]))
    return contents, {
        name: np.frombuffer(raw, f"<{kind}", count, offset)
        for name, (kind, offset, count) in contents["arrays"].items()
    }


def test_nothing_is_fetched(small):
    """No script, style, font or picture comes from anywhere else."""
    own = re.sub(r"/\*!? https://github.com/leeoniya/uPlot.*?\*/", "", small[1])
    assert not re.search(r"""\b(src|href)\s*=|url\(|@import|\bfetch\(|XMLHttpRequest|https?://""", own)


def test_the_same_result_gives_the_same_page(small, tmp_path):
    """Byte for byte."""
    assert page_of(pipesim.simulate(SMALL), tmp_path) == small[1]


def test_the_arrays_are_the_timeline(small):
    """Every op of every compute stream, with its times in picoseconds, in order of time."""
    contents, arrays = unpacked(small[1])
    frame = small[0].timeline.query("resource == 'compute'").sort_values(["rank", "start_s"], kind="stable")
    start = np.concatenate([np.cumsum(part) for part in np.split(arrays["start"], arrays["lane"][1:-1])])
    assert (start / 1e12).tolist() == frame["start_s"].tolist()
    assert ((start + arrays["length"]) / 1e12).tolist() == frame["end_s"].tolist()
    assert [contents["styles"][i]["kind"] for i in arrays["style"]] == frame["kind"].tolist()
    assert arrays["microbatch"].tolist() == frame["microbatch"].tolist()


def test_idle_intervals_are_all_there(small):
    """With what each waits for."""
    _, arrays = unpacked(small[1])
    assert arrays["idleFor"].tobytes().decode().split("\n") == small[0].idle["waiting_for"].tolist()


def test_a_hundred_thousand_ops_are_a_small_file(large):
    """Differences repeat, so that they compress: 0.33 MB when this was written."""
    assert len(large[1]) < 600_000


def test_names_cannot_break_out():
    """What a config says is text, wherever it appears."""
    result = pipesim.simulate({**SMALL, "schedule": {"name": "1f1b"}})
    result.metrics["warnings"].append("</script><script>alert(1)</script>")
    result.metrics["config"]["schedule"]["name"] = "<b>1f1b</b>"
    from pipesim.report.page_html import page

    text = page(result, "0")
    assert "<script>alert" not in text
    assert "<b>1f1b" not in text


def test_the_library_is_the_published_one():
    """Its files have the checksums that stand beside them, and its licence is with them."""
    folder = resources.files("pipesim.report.page").joinpath("uplot")
    listed = dict(re.findall(r"`(\S+)` \| `([0-9a-f]{64})`", folder.joinpath("README.md").read_text()))
    assert {name: hashlib.sha256(folder.joinpath(name).read_bytes()).hexdigest() for name in listed} == listed
    assert "MIT" in folder.joinpath("LICENSE").read_text()
    assert len(listed) == 2


def has(image, colour, share):
    """Whether at least a share of the pixels has a colour."""
    close = np.abs(image[..., :3] - rgb(colour)).max(axis=-1) < 0.02
    return close.mean() >= share


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One for all tests."""
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def show(browser, tmp_path):
    """Opens a page; closes it after the test, which fails if anything went wrong on it."""
    pages = []

    def opened(text, scheme="light"):
        file = tmp_path / "page.html"
        file.write_text(text)
        pages.append(Page(browser, file, scheme))
        return pages[-1]

    yield opened
    for page in pages:
        page.close()


@needs_browser
@pytest.mark.parametrize(("scheme", "background"), [("light", "#ffffff"), ("dark", "#15171b")])
def test_it_is_drawn_in_both_colour_schemes(small, show, scheme, background):
    """Forwards, backwards, and the page behind them."""
    image = show(small[1], scheme).screenshot()
    assert has(image, background, 0.3)
    assert has(image, "#3f7fbf", 0.005)
    assert has(image, "#e8923a", 0.02)


@needs_browser
def test_pointing_at_something_says_what_it_is(small, show):
    """Rank 0 starts with its first forward; after its four forwards it waits for a gradient."""
    page = show(small[1])
    page.mouse("mouseMoved", 1 / 164, 0.1)
    op = page.text("#tip").split("\n")
    page.mouse("mouseMoved", 30 / 164, 0.1)
    wait = page.text("#tip").split("\n")
    assert op == ["0F0 forward", "rank 0, stage 0, micro-batch 0", "0 to 3", "3 long", "1 in memory"]
    assert wait[:4] == ["idle: waiting for an op", "rank 0 waits for 1B0 on rank 1", "12 to 49", "37 long"]


@needs_browser
def test_the_memory_of_the_rank_under_the_pointer_is_emphasised(small, show):
    """And that of the fullest rank when there is none."""
    page = show(small[1])
    assert page.text("#memory-note").startswith("rank 0, the fullest, peak 4")
    page.mouse("mouseMoved", 0.5, 0.9)
    assert page.text("#memory-note").startswith("rank 3, peak 1")


@needs_browser
def test_scrolling_zooms_around_the_pointer(small, show):
    """The moment under the pointer stays where it is, on both charts; a double click shows the whole step again."""
    page = show(small[1])
    for _ in range(5):
        page.mouse("mouseWheel", 0.25, 0.5, deltaX=0, deltaY=-100)
    low, high = page.run("[report.view.low / report.data.span, report.view.high / report.data.span]")
    # a click is no finer than a pixel of a thousand
    assert low + 0.25 * (high - low) == pytest.approx(0.25, abs=1e-3)
    assert high - low == pytest.approx(np.exp(-5 / 4))  # scrolling by 100 is a factor of e^(1/4); floats
    assert page.run("report.timeline.plot.scales.x.min === report.memory.plot.scales.x.min")
    page.run("report.timeline.plot.over.dispatchEvent(new MouseEvent('dblclick'))")
    assert page.run("report.view.isWhole")


@needs_browser
def test_dragging_moves_the_view(small, show):
    """By as much as the pointer moves, and never beyond the step."""
    page = show(small[1])
    page.run("report.view.show(0.4 * report.data.span, 0.6 * report.data.span)")
    for kind, x in (("mousePressed", 0.5), ("mouseMoved", 0.25), ("mouseReleased", 0.25)):
        page.mouse(kind, x, 0.5, button="left", buttons=1, clickCount=1)
    assert page.run("report.view.low / report.data.span") == pytest.approx(0.45, abs=1e-3)  # pixels
    for kind, x in (("mousePressed", 0.1), ("mouseMoved", 0.9), ("mouseReleased", 0.9)) * 4:
        page.mouse(kind, x, 0.5, button="left", buttons=1, clickCount=1)
    assert page.run("report.view.low") == 0


@needs_browser
def test_dragging_with_shift_zooms_into_a_range(small, show):
    """From where the button went down to where it came up."""
    page = show(small[1])
    for kind, x in (("mousePressed", 0.5), ("mouseMoved", 0.4), ("mouseReleased", 0.25)):
        page.mouse(kind, x, 0.5, button="left", buttons=1, clickCount=1, modifiers=8)
    found = page.run("[report.view.low / report.data.span, report.view.high / report.data.span]")
    assert found == pytest.approx([0.25, 0.5], abs=1e-3)  # pixels


@needs_browser
def test_a_wait_leads_to_its_place(small, show):
    """The longest one first: rank 0 waits for the first gradient from 12 to 49."""
    page = show(small[1])
    page.run("document.querySelector('tr.wait').click()")
    found = page.run("[report.view.low, report.view.high].map((x) => x * report.data.unit.perPicosecond)")
    assert found == pytest.approx([0, 111])  # as much again on both sides, from the step's start on; floats


@needs_browser
def test_the_critical_path_can_be_shown(small, show):
    """As a line in a colour that is nowhere else in the timeline."""
    page = show(small[1])
    count = """(() => {
      const { ctx, bbox } = report.timeline.plot;
      const pixels = ctx.getImageData(bbox.left, bbox.top, bbox.width, bbox.height).data;
      let dark = 0;
      for (let i = 0; i < pixels.length; i += 4) dark += pixels[i] + pixels[i + 1] + pixels[i + 2] < 120;
      return dark;
    })()"""
    before = page.run(count)
    page.run("document.getElementById('critical').click()")
    page.settle()
    assert page.run(count) > before + 500


@needs_browser
def test_a_hundred_thousand_ops_are_shares_of_time_until_one_zooms_in(large, show):
    """The page says so, as long as ops cannot be told apart; then they are named."""
    page = show(large[1])
    assert "shares of time" in page.text("#mode")
    page.run("report.view.show(0, report.data.span / 100)")
    page.settle()
    page.mouse("mouseMoved", 0.02, 0.005)
    assert (page.text("#mode"), page.text("#tip b")) == ("", "0F0 forward")


@needs_browser
def test_a_hundred_thousand_ops_are_drawn_at_once(large, show):
    """8 to 23 ms for the whole step on two cores without a GPU, when this was written; the bound is for busy ones."""
    page = show(large[1])
    once = """(() => {
      const begin = performance.now();
      for (let i = 0; i < 5; i++) report.timeline.draw(report.timeline.plot);
      return (performance.now() - begin) / 5;
    })()"""
    assert page.run(once) < 250


@needs_browser
def test_overlapped_pairs_are_two_ops_one_above_the_other(tmp_path, show):
    """Pointing at the upper and at the lower half names the two ops of a pair."""
    result = pipesim.simulate({"pipeline": {"ranks": 4, "microbatches": 16}, "schedule": "dualpipe"})
    page = show(page_of(result, tmp_path))
    pair = result.timeline.query("pair >= 0 and rank == 1").iloc[:2]
    centre = (pair["start_s"].iloc[0] + pair["end_s"].iloc[0]) / 2 / result.metrics["step_time_s"]
    height = page.run("report.timeline.lanesHeight")
    top, bottom = page.run("[report.timeline.lanes[1].top, report.timeline.lanes[1].bottom]")
    names = []
    for share in (0.25, 0.75):
        page.mouse("mouseMoved", centre, (top + share * (bottom - top)) / height)
        names.append(page.text("#tip b").split()[0])
    assert names == [f"{op.stage}{op.kind}{op.microbatch}" for op in pair.itertuples()]
