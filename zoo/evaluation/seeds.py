"""What several seeds of one configuration reached, in one table."""

import math
from collections.abc import Mapping
from statistics import fmean, median
from typing import Any

from zoo.evaluation.report import Report
from zoo.evaluation.tables import Grid
from zoo.metrics.errors import HEAVY, interval_over_seeds
from zoo.metrics.text import error_over_runs, may_reach_zero, plain, with_interval

# What a first step is called in files, and where it is read: of the error, and of the answers where
# labels are hidden.
FIRST_STEPS = {
    "first_step_within_1_percent": "first step within 1 %",
    "first_step_99_percent_right": "first step with 99 % right",
}


def first_step_name(labels_hidden: bool) -> str:
    """The key of the first step at which a model came close enough."""
    within, right = FIRST_STEPS
    return right if labels_hidden else within


def numbers_of(report: Report) -> dict[str, float | None]:
    """The numbers of one seed that are compared with those of others, by name."""
    numbers: dict[str, float | None] = {**report.model_numbers()}
    if report.calibration_error is not None:
        numbers["test/calibration_error"] = report.calibration_error
    return numbers | {f"weights/{name}": value for name, value in report.weights.items()}


def summary_over_seeds(
    numbers: Mapping[int, Mapping[str, float | None]],
) -> dict[str, dict[str, Any]]:
    """Mean and 95 % interval (Student's t) of every number over the seeds that have it.

    Args:
        numbers: By seed and name; None where a seed has no such number.

    Returns:
        For each name `mean`, `ci95` (half the interval, None for fewer than two values) and
        `values` by seed.
    """
    summary: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for found in numbers.values() for name in found):
        values = {str(seed): found.get(name) for seed, found in numbers.items()}
        known = [value for value in values.values() if value is not None]
        mean, ci95 = interval_over_seeds(known) if known else (None, None)
        summary[name] = {"mean": mean, "ci95": ci95, "values": values}
    return summary


def first_step_over_seeds(first_steps: Mapping[int, int | None]) -> dict[str, Any]:
    """When seeds first came close enough, of which some may not have done so by the end.

    Args:
        first_steps: By seed; None where it did not.

    Returns:
        `num_reached`, how many did; `median` over all seeds, None if it lies after the end; and
        `values` by seed.
    """
    middle = median(math.inf if step is None else step for step in first_steps.values())
    return {
        "num_reached": sum(step is not None for step in first_steps.values()),
        "median": middle if math.isfinite(middle) else None,
        "values": {str(seed): step for seed, step in first_steps.items()},
    }


def seeds_table(summary: Mapping[str, Any], diverged: Mapping[int, str]) -> Grid:
    """What all seeds reached, for a terminal.

    Args:
        summary: With the `metrics` of `summary_over_seeds`, and one of `FIRST_STEPS` of
            `first_step_over_seeds`.
        diverged: The seeds that are left out.
    """
    (name_of_first,) = FIRST_STEPS.keys() & summary.keys()
    metrics, first = summary["metrics"], summary[name_of_first]
    seeds = first["values"]
    table = Grid(
        ["quantity", "mean", "lowest", "highest"],
        title=f"{len(seeds)} seeds, mean and 95 % interval over them",
    )
    for name, found in metrics.items():
        known = [value for value in found["values"].values() if value is not None]
        mean = _mean_text(name, metrics)
        if len(known) < len(seeds):
            mean += f" ({len(known)} of {len(seeds)})"
        table.add(name, mean, _text(min(known, default=None)), _text(max(known, default=None)))
    reached = f"median {_text(first['median'])} ({first['num_reached']} of {len(seeds)})"
    steps = [math.inf if step is None else step for step in seeds.values()]
    table.add(name_of_first, reached, _text(min(steps)), _text(max(steps)))
    if diverged:
        table.caption = f"diverged and left out: {', '.join(map(str, diverged))}"
    return table


def rates_table(rates: Mapping[str, Mapping[str, float]], best: float, num_seeds: int) -> Grid:
    """The rates that were trained side by side, for a terminal.

    Args:
        rates: Validation errors by rate and by seed, of the seeds that are left.
        best: The rate that was chosen.
        num_seeds: That were trained at each.
    """
    table = Grid(["rate", "error", "seeds"], title="validation, mean over the seeds")
    for rate, found in rates.items():
        text = _text(fmean(found.values())) if found else "-"
        kept = " *" if float(rate) == float(f"{best:g}") else ""
        table.add(f"{rate}{kept}", text, f"{len(found)} of {num_seeds}")
    table.caption = "* kept, tested and written"
    if float(f"{best:g}") in (min(map(float, rates)), max(map(float, rates))):
        table.caption += "; it is the edge of the list, which should go further"
    return table


def _mean_text(name: str, metrics: Mapping[str, Any]) -> str:
    """The mean; an error has no interval where one seed's has a heavy tail or it reaches zero."""
    mean, ci95 = metrics[name]["mean"], metrics[name]["ci95"]
    if mean is None:
        return "-"
    shares = metrics.get(f"{name}/tail_share", {"values": {}})["values"].values()
    heavy = any(share is not None and share > HEAVY for share in shares)
    is_error = name.startswith("test/") or name.endswith("_difference")
    if heavy or (is_error and not may_reach_zero(name)):
        return error_over_runs(mean, ci95, heavy=heavy)
    return with_interval(mean, ci95)


def _text(value: float | None) -> str:
    return "-" if value is None or value == math.inf else plain(value)
