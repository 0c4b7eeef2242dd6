"""What is left of an evaluation: tables, files, figures, TensorBoard runs."""

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path

from datamodules.suites import Suite
from zoo.evaluation.entries import Entry
from zoo.evaluation.measure import IMITATION
from zoo.evaluation.sweeps import (
    Row,
    curve_table,
    query_table,
    summary_of,
)
from zoo.evaluation.tables import Grid
from zoo.files import write_figure, write_json, write_text
from zoo.metrics.errors import Summary
from zoo.metrics.text import (
    in_cell,
    may_reach_zero,
    number_text,
    optional,
    place_of,
    place_text,
    share_text,
)


def tables_of(rows: list[Row], suites: Mapping[str, Suite], compare_with: str) -> list[Grid]:
    """One table for each suite and one for each imitated algorithm."""
    tables = []
    for name, suite in suites.items():
        of_suite = [row for row in rows if row.suite == name]
        metric = main_metric(of_suite)
        loss, sign, beside = beside_metric(of_suite, compare_with)
        found_at, compared = query_table(of_suite, metric), query_table(of_suite, beside)
        shown, is_accuracy = metric.removesuffix("_all"), metric.startswith("accuracy")
        last = f"{loss} {sign} {compare_with}" if is_accuracy else f"{sign} {compare_with}"
        table = Grid(
            [suite.axis, "predictor", shown, last],
            num_names=2,
            title=f"{name}: {shown} {place_text(place_of(metric))} ± 95 %",
        )
        if not is_accuracy:
            table.caption = "below: the median; the share of the mean that the worst 0.1 % carry"
        for setting in suite.settings:
            table.sections.add(len(table.rows))
            for i, predictor in enumerate(found_at):
                found = found_at[predictor].get(setting)
                text = _text(found, may_reach_zero(metric))
                if found is not None and found.median is not None:
                    text += f"\n{optional(found.median)}; {share_text(found.tail_share) or '-'}"
                quotient = _text(compared.get(predictor, {}).get(setting), may_reach_zero(beside))
                table.add("" if i else setting, predictor, text, quotient)
        tables.append(table)
    imitated = [row for row in rows if row.suite == IMITATION]
    for algorithm in dict.fromkeys(row.setting for row in imitated):
        of_algorithm = [row for row in imitated if row.setting == algorithm]
        title = f"agreement with {algorithm} ± 95 %"
        table = Grid(["model", "quantity", "value"], num_names=2, title=title)
        for row in of_algorithm:
            if row.value is not None:
                text = _text(summary_of(row), signed=may_reach_zero(row.metric))
                table.add(row.predictor, row.metric, text)
        tables.append(table)
    return tables


def measured_nowhere(rows: list[Row]) -> list[str]:
    """The predictors that no setting of a suite could be measured with."""
    of_suites = [row for row in rows if row.suite != IMITATION]
    measured = {row.predictor for row in of_suites if row.value is not None}
    return [name for name in dict.fromkeys(r.predictor for r in of_suites) if name not in measured]


def main_metric(rows: list[Row]) -> str:
    """The metric that a suite is shown by."""
    found = {row.metric for row in rows}
    return next((metric for metric in ("accuracy_all", "accuracy") if metric in found), "half_mse")


def beside_metric(rows: list[Row], compare_with: str) -> tuple[str, str, str]:
    """What says how far predictors are from the one that they are compared with.

    It is a ratio, or a difference where there is none: a ratio to no error means nothing.

    Returns:
        The loss, what is done with it (`/` or `-`), and the name of the metric.
    """
    found = {row.metric for row in rows}
    choices = [
        (loss, sign, f"{loss}{place}_{kind}_to_{compare_with}")
        for sign, kind in (("/", "ratio"), ("-", "difference"))
        for loss in ("half_mse", "cross_entropy")
        for place in ("", "_all")
    ]
    return next((choice for choice in choices if choice[2] in found), choices[0])


def write_results(
    rows: list[Row], entries: list[Entry], suites: Mapping[str, Suite], output: Path
) -> None:
    """results.json and results.csv, figures, and a TensorBoard run for each predictor."""
    from zoo.analysis.figures import learning_curve_figure, sweep_figure  # bring matplotlib

    write_json(output / "results.json", [row._asdict() for row in rows])
    text = io.StringIO(newline="")
    csv.writer(text).writerows([Row._fields, *rows])
    write_text(output / "results.csv", text.getvalue())
    for name, suite in suites.items():
        of_suite = [row for row in rows if row.suite == name]
        metric = main_metric(of_suite)
        if len(suite.settings) == 1:
            of_place = metric.removesuffix("_all")
            figure = learning_curve_figure(curve_table(of_suite, of_place), of_place)
        else:
            table = query_table(of_suite, metric)
            figure = sweep_figure(table, list(suite.settings), suite.axis, metric)
        for kind in ("png", "svg"):
            write_figure(output / "figures" / f"{name}.{kind}", figure, dpi=150)
    for entry in entries:
        of_entry = [r for r in rows if r.predictor == entry.label and r.value is not None]
        write_tensorboard(entry, of_entry, suites, output / "tensorboard")


def write_tensorboard(
    entry: Entry, rows: list[Row], suites: Mapping[str, Suite], directory: Path
) -> None:
    """A run for one predictor: curves over the settings of a suite, and HParams to sort by.

    A suite of one setting is drawn over the number of examples, one of several over the settings in
    their order.
    """
    from torch.utils.tensorboard import SummaryWriter  # brings TensorBoard

    writer = SummaryWriter(str(directory / re.sub(r"[^\w.=,()-]+", "_", entry.label)))
    for row in rows:
        if row.suite in suites:
            settings = list(suites[row.suite].settings)
            step = row.num_examples if len(settings) == 1 else settings.index(row.setting)
            if row.at_query or len(settings) == 1:
                writer.add_scalar(f"{row.suite}/{row.metric}", row.value, step)
    hyperparameters = {
        "predictor": entry.name,
        "kind": "solver" if entry.model is None else "model",
        "parameters": 0 if entry.card is None else entry.card.num_parameters,
    }
    final = {f"{r.suite}/{r.setting}/{r.metric}": r.value for r in rows if r.at_query}
    writer.add_hparams(hyperparameters, final, run_name=".", global_step=0)
    writer.close()


def _text(found: Summary | None, signed: bool = False) -> str:
    return "-" if found is None else in_cell(number_text(found, signed=signed))
