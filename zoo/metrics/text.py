"""Measured numbers as text, digits to the first two of what is not known, and their names."""

import math
from collections.abc import Sequence
from typing import Protocol

# Beyond these powers of ten, numbers are written with an exponent.
LOWEST_POWER, HIGHEST_POWER = -4, 6
# An interval below this fraction of its value is what float32 rounds.
ROUNDING = 1e-7

LOSS_LABELS = {
    "half_mse": "0.5*MSE",
    "cross_entropy": "cross entropy",
    "bits_per_byte": "bits per byte",
}
PLACES = {"query": "at the query", "all": "over all scored positions"}


class Number(Protocol):
    """What is known of a measured number; `zoo.metrics.errors.Summary` explains it."""

    @property
    def value(self) -> float: ...
    @property
    def ci95(self) -> float | None: ...
    @property
    def median(self) -> float | None: ...
    @property
    def tail_share(self) -> float | None: ...
    @property
    def lowest(self) -> float | None: ...
    @property
    def highest(self) -> float | None: ...


def loss_label(loss: str, at_place: bool = False) -> str:
    """What a loss is called where it is read.

    Args:
        loss: Its name, or that of its metric, as in `test/half_mse_query`.
        at_place: Whether it is said where it is measured: of a mere name that is the query.
    """
    name = loss.removeprefix("test/").removesuffix("_query").removesuffix("_all")
    label = LOSS_LABELS.get(name, name)
    return f"{label} {place_text(place_of(loss))}" if at_place else label


def place_of(metric: str) -> str:
    """Where a metric is measured, by its name: over all scored positions, or at the query."""
    return "all" if metric.endswith("_all") else "query"


def place_text(place: str) -> str:
    """A place as it is read."""
    return PLACES[place]


def is_signed(metric: str) -> bool:
    """Whether a metric of that name may be below zero: cosines, and differences of losses."""
    return "cosine" in metric or "difference_to_" in metric


def may_reach_zero(metric: str) -> bool:
    """Whether the interval of a metric of that name may: of what is signed, and of an accuracy."""
    return is_signed(metric) or "accuracy" in metric


def number_text(number: Number, *, signed: bool = False) -> str:
    """A measured number with its interval, or why it has none.

    `0.2074 ± 0.0026`; `0.21 (heavy tail, 0.15 to 20)` with the means of further sets of episodes,
    where these were drawn; `5.7e-11 (rounding)` where nothing is left but that.

    Args:
        number: The number.
        signed: Whether its interval may reach zero, like that of a cosine or an accuracy. That of
            an error never does: where it would, the tail is too heavy for one.
    """
    value, ci95 = number.value, number.ci95
    if number.lowest is not None and number.highest is not None:
        return with_range(value, number.lowest, number.highest)
    if ci95 is not None and (signed or not 0 <= value < ci95):
        return with_interval(value, ci95)
    if ci95 is not None or number.tail_share is not None:
        return f"{plain(value, 2)} (heavy tail)"
    if number.median is not None:
        return f"{plain(value, 2)} (rounding)"
    return plain(value)


def half_interval(ci95: float) -> str:
    """Half an interval by itself, for a number that stands elsewhere: `± 0.021`."""
    return f"± {ci95:.2g}"


def with_interval(value: float, ci95: float | None) -> str:
    """A value with half its interval, as in `0.2074 ± 0.0026` or `(5.7 ± 7.4)e-11`.

    The interval has two significant digits, the value ends at the same decimal place. A value whose
    interval is not known (None), zero, no number or the rounding of float32 stands alone.

    Args:
        value: Any number.
        ci95: Half the width of its interval.
    """
    if ci95 is None or not (math.isfinite(value) and math.isfinite(ci95)):
        return plain(value)
    if ci95 <= ROUNDING * abs(value):
        return plain(value)
    power = _power(max(abs(value), ci95))
    if LOWEST_POWER <= power <= HIGHEST_POWER:
        power, suffix = 0, ""
    else:
        suffix = f"e{power:+03d}"
    value, ci95 = value / 10.0**power, ci95 / 10.0**power
    # Rounded first: 0.0996 has its two digits, 0.10, one place further to the left.
    decimals = 1 - int(f"{ci95:.1e}".partition("e")[2])
    text = f"{_rounded(value, decimals)} ± {_rounded(ci95, decimals)}"
    return f"({text}){suffix}" if suffix else text


def with_range(value: float, lowest: float, highest: float) -> str:
    """A value whose tail is too heavy for an interval, as in `0.21 (heavy tail, 0.15 to 20)`."""
    return f"{plain(value, 2)} (heavy tail, {plain(lowest, 2)} to {plain(highest, 2)})"


def error_over_runs(
    mean: float, ci95: float | None, values: Sequence[float] = (), heavy: bool = False
) -> str:
    """The mean error of several runs with its interval, or with what says how far they scatter.

    `2.00 ± 0.13`; `0.51 (seeds 0.22 to 0.67)` where the interval would reach below zero, and
    `0.29 (heavy tail, seeds 0.16 to 0.56)` where few episodes carry the error of one.

    Args:
        mean: Over the runs.
        ci95: Half its interval over them, None for a single one.
        values: Of the runs; none where these stand beside it.
        heavy: Whether the tail of one is too heavy for an interval.
    """
    if not heavy and (ci95 is None or ci95 <= mean):
        return with_interval(mean, ci95)
    reasons = ["heavy tail"] if heavy else []
    if len(values) > 1:
        reasons.append(f"seeds {plain(min(values), 2)} to {plain(max(values), 2)}")
    return f"{plain(mean, 2)} ({', '.join(reasons)})" if reasons else plain(mean)


def plain(value: float, digits: int = 4) -> str:
    """A number by itself, to so many significant digits: `0.2074`, `2400`, `5.705e-11`."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    if not LOWEST_POWER <= int(power) <= HIGHEST_POWER:
        return f"{float(mantissa):g}e{power}"
    decimals = digits - 1 - int(power)
    text = _rounded(value, decimals)
    return text.rstrip("0").rstrip(".") if "." in text else text


def optional(value: float | None) -> str:
    """`plain`, or nothing for None."""
    return "" if value is None else plain(value)


def share_text(share: float | None) -> str:
    """A share as in `1.1 %`, or nothing for None."""
    return "" if share is None else f"{100 * share:.1f} %"


def in_cell(text: str) -> str:
    """The text of a number on several short lines, for a column of a table."""
    return text.replace(" (", "\n(").replace(", ", ",\n")


def _power(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


def _rounded(value: float, decimals: int) -> str:
    return f"{round(value, decimals):z.{max(0, decimals)}f}"
