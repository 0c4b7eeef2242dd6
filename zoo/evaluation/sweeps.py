"""Predictors measured on many kinds of episodes, as one long table."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from zoo.evaluation.compare import Comparison, EpisodeSets
from zoo.metrics.errors import Summary
from zoo.metrics.scoring import Scoring
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
        metric: Its name, such as `half_mse` or `half_mse_ratio_to_gradient_descent`; `accuracy_all`
            is over all scored positions, where labels are hidden.
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
    scoring: Scoring,
    compare_with: str,
) -> list[Row]:
    """Every predictor on the same episodes: its losses at every position, and paired ratios.

    Where labels are hidden its losses over all scored positions come beside those, and paired
    differences, which there are for exact algorithms too.

    Args:
        suite: Goes into the rows.
        setting: Goes into the rows.
        predictors: By name.
        sets: What they are measured on; positions that are not scored do not count.
        scoring: How predictions are scored.
        compare_with: The predictor by whose loss the others' are divided.

    Returns:
        Rows; for a predictor that cannot take the episodes one row with the reason.
    """
    rows = []
    comparison = Comparison(sets, scoring)
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
            at_query = (suite, setting, name, length - 1, True)
            *everywhere, over_all = comparison.summaries(name, metric)
            for i, found in enumerate(everywhere):
                if found is not None:
                    place = (suite, setting, name, i, i == length - 1)
                    rows.append(Row(*place, metric, *found, len(all_[i])))
            if scoring.labels_hidden and over_all is not None:
                rows.append(Row(*at_query, f"{metric}_all", *over_all, len(all_[-1])))
        reference = comparison.errors.get(compare_with, {})
        for metric in ("half_mse", "cross_entropy"):
            if (
                name == compare_with
                or metric not in of_metric
                or metric not in reference
                or not comparison.compared(compare_with, metric).isfinite().all()
            ):
                continue
            label = f"{metric}_all" if scoring.labels_hidden else metric
            if not comparison.is_rounding(compare_with, metric):
                ratio = comparison.ratio(name, compare_with, metric)
                label_of_ratio = f"{label}_ratio_to_{compare_with}"
                rows.append(Row(*at_query, label_of_ratio, *ratio, len(all_[-1])))
            if scoring.labels_hidden:
                found = comparison.difference(name, compare_with, metric)
                label_of_difference = f"{label}_difference_to_{compare_with}"
                rows.append(Row(*at_query, label_of_difference, *found, len(all_[-1])))
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
