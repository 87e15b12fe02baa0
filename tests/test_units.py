"""Quantities are read exactly, and misread never."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesim import units
from pipesim.errors import PipesimError


@pytest.mark.parametrize(
    ("text", "dimension", "expected"),
    [
        ("80 GB", "bytes", 80e9),
        ("80GB", "bytes", 80e9),
        ("16 GiB", "bytes", 16 * 2**30),
        ("2048", "bytes", 2048.0),
        (1_000, "bytes", 1000.0),
        (np.float64(5.0), "bytes", 5.0),
        (np.int64(5), "bytes", 5.0),
        ("1e9", "bytes", 1e9),
        ("1.5E3 kB", "bytes", 1.5e6),
        (".5 MB", "bytes", 5e5),
        ("1_000_000 B", "bytes", 1e6),
        ("400 Gb/s", "bytes_per_s", 50e9),
        ("400 Gbit/s", "bytes_per_s", 50e9),
        ("100 Gbps", "bytes_per_s", 12.5e9),
        ("50 GB/s", "bytes_per_s", 50e9),
        ("3 us", "seconds", 3e-6),
        ("30 µs", "seconds", 30e-6),
        ("30 μs", "seconds", 30e-6),
        ("7 ns", "seconds", 7e-9),
        ("1.5 ms", "seconds", 1.5e-3),
        ("2 min", "seconds", 120.0),
        ("312 TFLOP/s", "flops_per_s", 312e12),
        ("312 TFLOPS", "flops_per_s", 312e12),
        ("1.979 PFLOP/s", "flops_per_s", 1.979e15),
    ],
)
def test_a_quantity_is_read_in_si_units(text, dimension, expected):
    assert units.parse(text, dimension) == expected


@pytest.mark.parametrize(
    "value",
    [
        True,
        None,
        [],
        "",
        "GB",
        "inf",
        "nan",
        "-1",
        "-3 GB",
        "1e999",
        "1__0",
        "1 2",
        math.nan,
        math.inf,
        -1.0,
        10**400,
        1e25,
        "10000000 EB",
    ],
)
def test_what_is_not_a_finite_non_negative_quantity_is_refused(value):
    with pytest.raises(units.UnitError, match="found"):
        units.parse(value, "bytes")


def test_case_is_never_guessed_because_a_small_b_is_a_bit():
    with pytest.raises(units.UnitError, match=r"unknown unit 'gb/s'.*did you mean GB/s or Gb/s\?"):
        units.parse("400 gb/s", "bytes_per_s")


@pytest.mark.parametrize(
    ("text", "dimension", "suggested"),
    [("80 gb", "bytes", "GB"), ("3 usec", "seconds", "us"), ("312 TFLOP", "flops_per_s", "TFLOPS")],
)
def test_an_unknown_unit_names_the_nearest_one(text, dimension, suggested):
    with pytest.raises(units.UnitError) as caught:
        units.parse(text, dimension)
    assert caught.value.nearest == suggested


def test_a_unit_of_another_dimension_is_refused():
    with pytest.raises(units.UnitError, match="unknown unit 'GB'"):
        units.parse("80 GB", "seconds")


def test_zero_is_a_latency_but_not_a_bandwidth():
    assert units.parse_seconds(0) == 0.0
    with pytest.raises(units.UnitError, match="must be positive"):
        units.parse_bandwidth("0 GB/s")


def test_a_unit_error_is_both_a_user_error_and_a_value_error():
    assert issubclass(units.UnitError, PipesimError)
    assert issubclass(units.UnitError, ValueError)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1.00 kB"),
        (80e9, "80.0 GB"),
        (999.96e9, "1.00 TB"),
        (1.5, "1.50 B"),
        (-2e9, "-2.00 GB"),
        (float("inf"), "inf B"),
    ],
)
def test_sizes_print_with_three_digits(value, expected):
    assert units.format_bytes(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0 s"),
        (3e-6, "3.00 us"),
        (17.24e-3, "17.2 ms"),
        (0.99996, "1.00 s"),
        (12.345, "12.3 s"),
        (999.4, "999 s"),
        (4321.0, "4321 s"),
        (5e-12, "5.00 ps"),
    ],
)
def test_times_print_with_three_digits(value, expected):
    assert units.format_seconds(value) == expected


def test_rates_print_with_their_unit():
    assert units.format_rate(25e9) == "25.0 GB/s"
    assert units.format_rate(312e12, "FLOP/s") == "312 TFLOP/s"


@given(st.floats(min_value=1e-12, max_value=1e20))
def test_what_is_printed_reads_back_within_its_three_digits(value):
    assert units.parse(units.format_bytes(value), "bytes") == pytest.approx(value, rel=5e-3, abs=1e-6)
    assert units.parse(units.format_seconds(value), "seconds") == pytest.approx(value, rel=5e-3, abs=1e-15)


@given(st.text(max_size=12))
def test_any_text_gives_a_number_or_a_unit_error(text):
    value = 0.0
    with contextlib.suppress(units.UnitError):
        value = units.parse(text, "bytes")
    assert value >= 0
