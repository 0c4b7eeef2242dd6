"""What several seeds of one configuration reached, in one table."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from zoo.analysis.report import Report
from zoo.metrics.errors import interval_over_seeds

MAX_SEEDS_IN_TABLE = 8


def numbers_of(report: Report) -> dict[str, float | None]:
    """The numbers of one seed that are compared with those of others, by name."""
    numbers: dict[str, float | None] = {n: m.value for n, m in report.model_metrics().items()}
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


def seeds_table(summary: Mapping[str, Mapping[str, Any]], diverged: Mapping[int, str]) -> Table:
    """The summary for a terminal; the values of each seed where there is room for them."""
    seeds = list(next(iter(summary.values()))["values"])
    shown = seeds if len(seeds) <= MAX_SEEDS_IN_TABLE else []
    table = Table(title=f"{len(seeds)} seeds, mean and 95 % interval over them")
    table.add_column("quantity")
    table.add_column("mean", justify="right")
    for seed in shown:
        table.add_column(seed, justify="right")
    for name, found in summary.items():
        num_known = sum(value is not None for value in found["values"].values())
        mean = _text(found["mean"])
        if found["ci95"] is not None:
            mean += f" ± {found['ci95']:.2g}"
        if num_known < len(seeds):
            mean += f" ({num_known} of {len(seeds)})"
        table.add_row(name, mean, *(_text(found["values"][seed]) for seed in shown))
    if diverged:
        table.caption = f"diverged and left out: {', '.join(map(str, diverged))}"
    return table


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
