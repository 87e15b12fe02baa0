"""Numbers are printed with a unit that suits them."""

from __future__ import annotations

import pytest

from pipesim.errors import PipesimError
from pipesim.report import numbers


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (12.3456, "12.35 s"),
        (1.0, "1.000 s"),
        (12345.6, "12346 s"),
        (0.0123456, "12.35 ms"),
        (2.5e-6, "2.500 µs"),
        (4e-9, "4.000 ns"),
        (7e-12, "7.000 ps"),
        (5e-13, "0.5000 ps"),
    ],
)
def test_durations_have_four_digits_and_a_fitting_unit(seconds, text):
    """The largest unit in which the number is at least 1."""
    assert numbers.duration(seconds) == text


def test_abstract_durations_are_bare_numbers():
    """33 units of cost print as 33."""
    assert numbers.duration(33.0, numbers.PLAIN) == "33"
    assert numbers.durations([1.5, 33.0], 34.5, numbers.PLAIN) == ["1.5", "33"]


def test_parts_of_a_total_share_unit_and_decimals():
    """Columns of numbers line up at the decimal point."""
    assert numbers.durations([10.1, 0.05], 10.15) == ["10.10 s", "0.05 s"]
    assert numbers.durations([1234e-3, 2e-3], 1.236) == ["1.234 s", "0.002 s"]


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0 B"), (999, "999 B"), (80e9, "80.0 GB"), (1.5e12, "1.50 TB"), (123.4e6, "123 MB")]
)
def test_sizes_are_decimal(amount, text):
    """GB is 1e9."""
    assert numbers.size(amount) == text


def test_binary_units_on_request():
    """GiB is 2**30."""
    assert numbers.size(2.0**30, "GiB") == "1.00 GiB"


def test_unknown_units_get_a_suggestion():
    """Allowed ones are listed."""
    with pytest.raises(PipesimError, match=r"memory unit 'GBs' is unknown; allowed: B, kB, .* did you mean 'GB'\?"):
        numbers.size(1.0, "GBs")


def test_large_rates_are_grouped():
    """Thousands are set apart, small numbers keep their digits."""
    assert (numbers.grouped(65432.1), numbers.grouped(682.31)) == ("65,432", "682.3")
