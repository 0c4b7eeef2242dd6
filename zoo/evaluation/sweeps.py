"""Predictors measured on many kinds of episodes, as one long table."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from zoo.evaluation.compare import Comparison, EpisodeSets
from zoo.metrics.errors import Summary
from zoo.predictor import Predictor

# What predictors raise for episodes that they cannot take or do not converge on, or for want of a
# package.
NOT_MEASURABLE = (ValueError, RuntimeError, ImportError)


class Row(NamedTuple):
    """One number, or the reason why there is none.

    Attributes:
        suite: Which comparison it belongs to.
        setting: Which of its settings.
        predictor: What was measured.
        num_examples: Examples seen before the prediction.
        at_query: Whether these are all examples of the episode.
        metric: Its name, such as `half_mse` or `ratio_to_gradient_descent`.
        value: Mean over episodes.
        ci95: Half the width of its 95 % interval; this and the next four as `Summary` has them.
        median: Of the errors.
        tail_share: Share of the mean that the worst 0.1 % of the episodes carry.
        lowest: Mean of further sets of as many episodes, where the tail is heavy.
        highest: Of the same.
        num_episodes: Episodes behind it.
        note: Why there is no value; empty if there is one.
    """

    suite: str
    setting: str
    predictor: str
    num_examples: int
    at_query: bool
    metric: str
    value: float | None
    ci95: float | None
    median: float | None
    tail_share: float | None
    lowest: float | None
    highest: float | None
    num_episodes: int
    note: str = ""


def measure(
    suite: str,
    setting: str,
    predictors: Mapping[str, Predictor],
    sets: EpisodeSets,
    classification: bool,
    compare_with: str,
) -> list[Row]:
    """Every predictor on the same episodes: its losses at every position, and paired ratios.

    Args:
        suite: Goes into the rows.
        setting: Goes into the rows.
        predictors: By name.
        sets: What they are measured on; positions that are not scored do not count.
        classification: Whether the targets are classes.
        compare_with: The predictor by whose loss at the query the others' are divided.

    Returns:
        Rows; for a predictor that cannot take the episodes one row with the reason.
    """
    rows = []
    comparison = Comparison(sets, classification)
    for name, predictor in predictors.items():
        try:
            comparison.add(name, predictor)
        except NOT_MEASURABLE as error:
            rows.append(not_measured(suite, setting, name, str(error)))
    for name, of_metric in comparison.errors.items():
        # The last column is made of the others.
        columns = [column for all_ in of_metric.values() for column in all_[:-1]]
        bad = sum((~column.isfinite()).sum() for column in columns)
        if bad:
            note = f"{bad} losses are not finite"
            rows.append(not_measured(suite, setting, name, note))
            continue
        for metric, all_ in of_metric.items():
            length = len(all_) - 1
            for i, found in enumerate(comparison.summaries(name, metric)[:-1]):
                if found is not None:
                    place = (suite, setting, name, i, i == length - 1)
                    rows.append(Row(*place, metric, *found, len(all_[i])))
        reference = comparison.errors.get(compare_with, {})
        for metric in ("half_mse", "cross_entropy"):
            if (
                name != compare_with
                and metric in of_metric
                and metric in reference
                and not comparison.is_rounding(compare_with, metric)
                and reference[metric][-2].isfinite().all()
            ):
                ratio = comparison.ratio(name, compare_with, metric)
                place = (suite, setting, name, length - 1, True)
                row = Row(*place, f"{metric}_ratio_to_{compare_with}", *ratio, len(all_[-1]))
                rows.append(row)
    return rows


def not_measured(suite: str, setting: str, predictor: str, note: str) -> Row:
    """The row of a predictor that cannot take a setting; the note says why."""
    place = (suite, setting, predictor, 0, True)
    return Row(*place, "", None, None, None, None, None, None, 0, note)


def summary_of(row: Row) -> Summary | None:
    """The number of a row, None where it has none."""
    if row.value is None:
        return None
    return Summary(row.value, row.ci95, row.median, row.tail_share, row.lowest, row.highest)


def query_table(rows: Iterable[Row], metric: str) -> dict[str, dict[str, Summary | None]]:
    """Predictor to setting to its number at the query, None where it could not be measured."""
    table: dict[str, dict[str, Summary | None]] = {}
    for row in rows:
        if row.at_query and row.value is None:
            table.setdefault(row.predictor, {})[row.setting] = None
        elif row.at_query and row.metric == metric:
            table.setdefault(row.predictor, {})[row.setting] = summary_of(row)
    return table


def curve_table(rows: Iterable[Row], metric: str) -> dict[str, list[Summary | None]]:
    """Predictor to its numbers after 0, 1, ... examples in one setting; None where it has none."""
    curves: dict[str, list[Summary | None]] = {}
    for row in rows:
        if row.metric == metric and row.value is not None:
            curve = curves.setdefault(row.predictor, [])
            curve += [None] * (row.num_examples - len(curve))
            curve.append(summary_of(row))
    return curves
