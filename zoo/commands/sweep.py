"""`python -m zoo sweep`: what the runs of a multirun reached, and the mean over their seeds."""

import csv
import io
from pathlib import Path

from rich.console import Console
from rich.table import Table

from zoo.files import write_text
from zoo.metrics.errors import interval_over_seeds
from zoo.metrics.text import error_over_runs, may_reach_zero, with_interval
from zoo.training.sweep import groups, read_runs


def sweep(directory: Path) -> None:
    """Prints a table for each group of runs and writes `summary.csv` into the directory.

    Runs that differ in their seed alone are a group. It has the mean over the seeds and half the
    95 % interval (Student's t). A run of several seeds (`seeds=8`) counts as one run for each.

    Args:
        directory: What `hydra.sweep.dir` was, or any directory of runs.

    Raises:
        ValueError: If no run in it is finished.
    """
    runs = read_runs(directory)
    tables = []
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["runs", "quantity", "mean", "ci95", "num_runs", "seeds"])
    for key, members in groups(runs).items():
        seeds = [run.settings["seed"] for run in members]
        table = Table(title=f"{key}: {len(members)} runs")
        table.add_column("quantity")
        table.add_column("mean over seeds", justify="right")
        for run in members:
            table.add_column(f"seed {run.settings['seed']}", justify="right")
        for name in dict.fromkeys(name for run in members for name in run.numbers):
            values = [run.numbers[name] for run in members if name in run.numbers]
            middle, half = interval_over_seeds(values)
            writer.writerow([key, name, middle, half, len(values), " ".join(map(str, seeds))])
            # The numbers that are never below zero are errors, their ratios and steps.
            shown = (with_interval if may_reach_zero(name) else error_over_runs)(middle, half)
            if len(values) < len(members):
                shown += f" ({len(values)} of {len(members)})"
            each = (f"{run.numbers[name]:.5g}" if name in run.numbers else "-" for run in members)
            table.add_row(name, shown, *each)
        tables.append(table)
    write_text(directory / "summary.csv", text.getvalue())
    console = Console()
    for table in tables:
        console.print(table)
    console.print(f"summary  {directory / 'summary.csv'}", soft_wrap=True)
