"""Measured numbers as text."""

import math

import pytest

from zoo.metrics.errors import Summary
from zoo.metrics.text import error_over_runs, may_reach_zero, number_text, plain, with_interval


@pytest.mark.parametrize(
    ("value", "ci95", "text"),
    [
        (240.3, 150.0, "240 ± 150"),
        (-0.0030868, 0.012, "-0.003 ± 0.012"),
        (0.20741, 0.00262, "0.2074 ± 0.0026"),
        (0.2, 0.01, "0.200 ± 0.010"),
        (0.5, 0.0996, "0.50 ± 0.10"),
        (12345.67, 3.4, "12345.7 ± 3.4"),
        (-0.003, 12.0, "0 ± 12"),
        (5.7048e-11, 7.362e-11, "(5.7 ± 7.4)e-11"),
        (1e8, 1234567.0, "(1.000 ± 0.012)e+08"),
        (0.3, None, "0.3"),
        (3.0, 0.0, "3"),
        (math.nan, 1.0, "nan"),
        (1.0, math.inf, "1"),
    ],
)
def test_a_value_ends_where_the_first_two_digits_of_its_interval_do(
    value: float, ci95: float | None, text: str
) -> None:
    assert with_interval(value, ci95) == text


@pytest.mark.parametrize("power", range(-30, 30))
def test_no_interval_has_an_exponent_of_its_own(power: int) -> None:
    for value, ci95 in ((2.4, 1.5), (2.4, 0.015), (0.0, 1.5), (0.0996, 0.0996)):
        text = with_interval(value * 10.0**power, ci95 * 10.0**power)
        digits = text.partition("±")[2].partition(")")[0].strip()
        assert "e" not in digits
        # Two digits but for zeros that only hold the place, as in 150.
        assert len(digits.replace(".", "").lstrip("0").rstrip("0") or "1") <= 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.20741, "0.2074"), (12345.6, "12350"), (5.7048e-11, "5.705e-11"), (1.0, "1")],
)
def test_a_number_alone_has_four_digits(value: float, text: str) -> None:
    assert plain(value) == text


def test_an_interval_of_rounding_is_none() -> None:
    assert with_interval(0.03124999925494194, 4.2e-11) == "0.03125"
    assert with_interval(0.03124999925494194, 4.2e-8) != "0.03125"


def test_an_accuracy_has_its_interval_where_that_reaches_zero() -> None:
    found = Summary(0.031, 0.04, None, None)
    assert number_text(found, signed=may_reach_zero("test/accuracy_all")) == "0.031 ± 0.040"
    assert may_reach_zero("alignment/cosine")
    assert not may_reach_zero("test/half_mse_query")


def test_an_error_whose_interval_would_reach_zero_has_none() -> None:
    assert number_text(Summary(0.1, 0.02)) == "0.100 ± 0.020"
    assert number_text(Summary(0.1, 0.2)) == "0.1 (heavy tail)"
    assert number_text(Summary(0.1, 0.2), signed=True) == "0.10 ± 0.20"
    assert number_text(Summary(-0.1, 0.2), signed=True) == "-0.10 ± 0.20"
    heavy = Summary(0.2124, None, 0.052, 0.4, 0.154, 20.2)
    assert number_text(heavy) == "0.21 (heavy tail, 0.15 to 20)"
    assert number_text(heavy._replace(lowest=None, highest=None)) == "0.21 (heavy tail)"
    assert number_text(Summary(5.7e-11, median=1e-14)) == "5.7e-11 (rounding)"
    assert number_text(Summary(0.0, 0.0, 0.0, 0.0)) == "0"
    assert number_text(Summary(3)) == "3"


def test_a_mean_over_runs_whose_interval_would_reach_zero_has_the_range_of_the_runs() -> None:
    assert error_over_runs(2.0, 0.132, [1.9, 2.1]) == "2.00 ± 0.13"
    assert error_over_runs(2.0, None, [2.0]) == "2"
    assert error_over_runs(0.511, 0.623, [0.222, 0.666, 0.646]) == "0.51 (seeds 0.22 to 0.67)"
    assert error_over_runs(2.0, 13.2) == "2"  # where the range stands beside it


def test_a_mean_over_runs_with_a_heavy_tail_has_their_range() -> None:
    several = error_over_runs(0.29, 0.01, [0.56, 0.16, 0.163], heavy=True)
    assert several == "0.29 (heavy tail, seeds 0.16 to 0.56)"
    assert error_over_runs(0.29, None, [0.29], heavy=True) == "0.29 (heavy tail)"
