"""The summary says in text what a run's metrics say in numbers, and nothing silly where they say nothing."""

from __future__ import annotations

import copy

import pytest
from metrics_examples import ABSTRACT_RUN, CLUSTER_RUN, misfit, rank

from pipesim.report.columns import bar, table
from pipesim.report.html import summary_html
from pipesim.report.text import rich_summary, summary

CLUSTER_TEXT = """\
gpt3-175b on 64 x a100-sxm-80gb (PP 4, TP 8, DP 2)
interleaved-1f1b (chunks 2), 8 micro-batches of 2, bf16, recompute selective, zero 1

Step time             12.35 s
Compute makespan      12.10 s
Bubble fraction         8.1 %  idle share of all ranks' compute makespan
Bubble overhead         9.3 %  compute makespan over mean busy time, less one
Span bubble fraction    7.0 %  idle share of the longest rank's own span

Samples per second          3.210
Tokens per second          65,432
Tokens per second and GPU   682.3
Model TFLOP/s per GPU       148.2
Hardware TFLOP/s per GPU    197.5
MFU                        47.5 %
HFU                        63.3 %

Memory at each rank's peak, capacity 80.0 GB
  rank     peak    used  weights  gradients  optimizer  activations
     0  76.0 GB  95.0 %  10.0 GB    7.00 GB    29.0 GB      30.0 GB
     1  75.0 GB  93.8 %  10.0 GB    7.00 GB    29.0 GB      29.0 GB
     2  74.0 GB  92.5 %  10.0 GB    7.00 GB    29.0 GB      28.0 GB
     3  73.0 GB  91.2 %  10.0 GB    7.00 GB    29.0 GB      27.0 GB

Peak activations in flight, in micro-batches of a whole rank: 5 4 3 2

Where the time goes (mean over ranks)
  compute                  10.10 s  83.1 %  ████████████████████████▉
  exposed transfers         0.21 s   1.7 %  ▌
  exposed collectives       0.40 s   3.3 %  █
  warm-up                   0.50 s   4.1 %  █▎
  waiting for other ranks   0.30 s   2.5 %  ▊
  drain                     0.60 s   4.9 %  █▌
  optimizer                 0.05 s   0.4 %  ▏

Critical path: B 60.0 %, F 33.0 %, OPT 1.0 %

Theory (equal stages, free transfers)
                   published  simulated
  bubble fraction      7.9 %      8.1 %
  peak in flight     5 4 3 2    5 4 3 2
  somebody 2021, section 2

Warning: stage 3 is 12 % slower than the mean
"""

ABSTRACT_TEXT = """\
4 ranks
1f1b, 8 micro-batches

Step time                 33
Compute makespan          33
Bubble fraction       27.3 %  idle share of all ranks' compute makespan
Bubble overhead       37.5 %  compute makespan over mean busy time, less one
Span bubble fraction  27.3 %  idle share of the longest rank's own span

Peak activations in flight, in micro-batches of a whole rank: 4 3 2 1

Where the time goes (mean over ranks)
  compute                  24  72.7 %  ######################
  warm-up                   3   9.1 %  ###
  waiting for other ranks   3   9.1 %  ###
  drain                     3   9.1 %  ###

Critical path: B 66.7 %, F 33.3 %
"""


def test_a_run_on_a_cluster():
    """Everything there is, in one screen."""
    assert summary(CLUSTER_RUN) == CLUSTER_TEXT


def test_an_abstract_run_prints_no_units_and_no_nulls():
    """No seconds, no bytes, no None; and the bars in ASCII."""
    assert summary(ABSTRACT_RUN, ascii_only=True) == ABSTRACT_TEXT


def test_a_plan_that_does_not_fit_says_by_how_much_and_what_would_help():
    """Demand, capacity, gap, advice."""
    expected = """\
DOES NOT FIT in memory
  demand    91.2 GB  on rank 0
  capacity  80.0 GB
  gap       11.2 GB  14.0 % over
  What would make it fit:
    - recompute: full (peak 61.0 GB)
"""
    assert expected in summary(misfit(["recompute: full (peak 61.0 GB)"]))
    assert "would make it fit" not in summary(misfit())
    assert "DOES NOT FIT" not in summary(CLUSTER_RUN)


def test_many_ranks_are_summed_up_by_their_extremes():
    """Of 64 ranks the fullest and the emptiest are printed, with the mean and how many do not fit."""
    run = copy.deepcopy(CLUSTER_RUN)
    run["ranks"] = [rank(r, 90e9 - r * 0.5e9, 64 - r) for r in range(64)]
    text = summary(run)
    assert "     0  90.0 GB" in text
    assert "    63  58.5 GB" in text
    assert "fullest and emptiest of 64 ranks; mean peak 74.2 GB; 20 of 64 ranks do not fit" in text
    assert "in micro-batches of a whole rank: 1 to 64" in text
    assert len(text.splitlines()) < 60


def test_nothing_known_is_nothing_said():
    """An empty result prints an empty line, not a crash."""
    assert summary({}) == "\n"


def test_every_part_of_a_result_may_be_null():
    """Taking any one key away or nulling it never fails, and never prints None."""
    for run in (CLUSTER_RUN, ABSTRACT_RUN):
        for key in run:
            for changed in ({**run, key: None}, {k: v for k, v in run.items() if k != key}):
                assert "None" not in summary(changed)
                assert "None" not in summary_html(changed)


def test_the_rich_form_has_the_same_words():
    """Only emphasis is added; a misfit is red."""
    text = rich_summary(misfit())
    assert text.plain == summary(misfit())
    assert any("red" in str(span.style) for span in text.spans)
    assert not any("red" in str(span.style) for span in rich_summary(CLUSTER_RUN).spans)


def test_lines_fit_a_terminal():
    """100 columns are enough, and nothing trails."""
    for line in summary(misfit(["zero: 1"])).splitlines():
        assert len(line) <= 100
        assert line == line.rstrip()


@pytest.mark.parametrize(
    ("fraction", "text", "plain"), [(0, "", ""), (1, "████████", "########"), (0.5, "████", "####"), (1 / 64, "▏", "")]
)
def test_bars_are_exact_to_an_eighth(fraction, text, plain):
    """Unicode has blocks of eighths; ASCII rounds to characters."""
    assert (bar(fraction, 8), bar(fraction, 8, ascii_only=True)) == (text, plain)


def test_columns_line_up():
    """Left or right, by the widest cell."""
    assert table([("a", "1"), ("bcd", "22")], "<>") == ["a     1", "bcd  22"]


def test_html_is_one_self_contained_piece():
    """No scripts, no links; text is escaped; a misfit is named as such."""
    run = misfit()
    run["config"]["model"] = "<script>alert(1)</script>"
    html = summary_html(run)
    assert "<script" not in html
    assert "http" not in html
    assert "does not fit" in html
    assert html.count("<div") == html.count("</div>")


@pytest.mark.parametrize(
    ("op", "words"),
    [("36RECOMPUTE1", "RECOMPUTE of micro-batch 1, stage 36"), ("0B3", "B of micro-batch 3, stage 0"), ("OPT", "OPT")],
)
def test_the_fullest_rank_says_when_and_with_which_op_it_peaks(op, words):
    """In words, with the moment."""
    run = copy.deepcopy(CLUSTER_RUN)
    for each in run["ranks"]:
        each["memory"]["at_op"] = op
    fullest = max(run["ranks"], key=lambda each: each["memory"]["peak_bytes"])
    assert f"rank {fullest['rank']} peaks at 100.0 ms, in {words}" in summary(run)
