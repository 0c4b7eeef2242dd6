"""What is left of an evaluation: tables, files, figures, TensorBoard runs."""

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from datamodules.suites import Suite
from zoo.evaluation.entries import Entry
from zoo.evaluation.measure import IMITATION
from zoo.evaluation.sweeps import (
    Row,
    curve_table,
    query_table,
    summary_of,
)
from zoo.files import write_figure, write_json, write_text
from zoo.metrics.errors import Summary
from zoo.metrics.text import in_cell, number_text, optional, share_text


def tables_of(rows: list[Row], suites: Mapping[str, Suite], compare_with: str) -> list[Table]:
    """One table for each suite and one for each imitated algorithm."""
    tables = []
    for name, suite in suites.items():
        of_suite = [row for row in rows if row.suite == name]
        metric = main_metric(of_suite)
        loss = query_table(of_suite, metric)
        ratio = query_table(of_suite, f"{metric}_ratio_to_{compare_with}")
        table = Table(title=f"{name}: {metric} at the query ± 95 %")
        if metric != "accuracy":
            table.caption = "below: the median; the share of the mean that the worst 0.1 % carry"
        for heading in (suite.axis, "predictor", metric, f"/ {compare_with}"):
            if heading == "predictor":
                table.add_column(heading, overflow="fold")
            else:
                table.add_column(heading, justify="right", no_wrap=True)
        for setting in suite.settings:
            table.add_section()
            for i, predictor in enumerate(loss):
                found = loss[predictor].get(setting)
                text = _text(found, signed=metric == "accuracy")
                if found is not None and found.median is not None:
                    text += f"\n{optional(found.median)}; {share_text(found.tail_share) or '-'}"
                quotient = _text(ratio.get(predictor, {}).get(setting))
                table.add_row("" if i else setting, predictor, text, quotient)
        tables.append(table)
    imitated = [row for row in rows if row.suite == IMITATION]
    for algorithm in dict.fromkeys(row.setting for row in imitated):
        of_algorithm = [row for row in imitated if row.setting == algorithm]
        table = Table(title=f"agreement with {algorithm} ± 95 %")
        for heading in ("model", "quantity"):
            table.add_column(heading, overflow="fold")
        table.add_column("value", justify="right", no_wrap=True)
        for row in of_algorithm:
            if row.value is not None:
                text = _text(summary_of(row), signed="cosine" in row.metric)
                table.add_row(row.predictor, row.metric, text)
        tables.append(table)
    return tables


def measured_nowhere(rows: list[Row]) -> list[str]:
    """The predictors that no setting of a suite could be measured with."""
    of_suites = [row for row in rows if row.suite != IMITATION]
    measured = {row.predictor for row in of_suites if row.value is not None}
    return [name for name in dict.fromkeys(r.predictor for r in of_suites) if name not in measured]


def main_metric(rows: list[Row]) -> str:
    """The metric that a suite is shown by."""
    return "accuracy" if any(row.metric == "accuracy" for row in rows) else "half_mse"


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
            figure = learning_curve_figure(curve_table(of_suite, metric), metric)
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
