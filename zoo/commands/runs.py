"""`python -m zoo runs`: what runs reached, in one table, and those that are not finished."""

import csv
import io
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from rich.console import Console

from zoo.evaluation.tables import Grid
from zoo.metrics.text import error_over_runs, loss_label, plain
from zoo.training.overrides import short_path, typed_resume
from zoo.training.rows import RATES, Row
from zoo.training.runs import ARCHITECTURE, Run


def show(rows: Sequence[Row], runs: Sequence[Run], console: Console, by: str | None = None) -> None:
    """Prints rows as a table, one for each kind of error and algorithm; nothing without rows.

    Args:
        rows: In the order in which they are shown.
        runs: That they are of.
        console: Where to.
        by: The setting that rows are told apart by.
    """
    if not rows:
        return
    short = _short_names({name for run in runs for name in run.settings})
    kinds = dict.fromkeys((row.metric, row.reference) for row in rows if row.metric)
    for metric, reference in kinds or {("", ""): None}:
        # What was validated alone stands with what was tested.
        members = [row for row in rows if row.metric in (metric, "")]
        members = [row for row in members if row.reference in (reference, "")]
        console.print(_grid(members, short, metric, reference, by))
        console.print()


def _grid(
    rows: Sequence[Row], short: dict[str, str], metric: str, reference: str, by: str | None
) -> Grid:
    validated = by in RATES
    headings = ["architecture", "error", f"/ {reference.replace('_', ' ')}"]
    headings += ["validation" if validated else "rate", "seeds", "params", "s"]
    title = f"test error: {loss_label(metric, at_place=True)}, mean over the seeds ± 95 %"
    tested = sorted({row.num_tests for row in rows if row.metric})
    if len(tested) == 1:
        title += f"\n{tested[0]:,} test episodes"
    grid = Grid(headings, least=5, title=title, framed=False)
    for row in rows:
        settings = [f"  {short[name]}={value}" for name, value in _shown(row).items()]
        if row.metric and len(tested) > 1:
            settings.append(f"  tested on {row.num_tests:,}")
        validation = "" if row.validation is None else plain(row.validation)
        grid.add(
            "\n".join([row.architecture, *settings]),
            _over_seeds(row, metric),
            _over_seeds(row, row.ratio),
            validation if validated else _rate_text(row),
            str(len(row.trials)),
            f"{row.trials[0].num_parameters:,}" if row.metric else "",
            f"{row.seconds:,.0f}" if row.metric else "",
        )
    notes = []
    if any(row.at_edge for row in rows):
        notes.append("* the smallest or largest of the rates tried: there may be a better one")
    if any(len(row.tried) > 1 for row in rows):
        notes.append("rate of N: chosen by the validation errors of the N tried")
    grid.caption = "\n".join(notes) or None
    return grid


def _short_names(names: set[str]) -> dict[str, str]:
    """Each dotted name with the shortest end of it that no other has."""
    found = {}
    for name in names:
        parts = name.split(".")
        ends = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
        others = [other for other in names if other != name]
        unique = (end for end in ends if not any(f".{o}".endswith(f".{end}") for o in others))
        found[name] = next(unique, name)
    return found


def _shown(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.settings.items() if name != ARCHITECTURE}


def _over_seeds(row: Row, name: str) -> str:
    """The mean of an error or ratio with its interval, or how far the seeds are apart."""
    values = [*row.values(name).values()]
    return error_over_runs(*row.over_seeds(name), values, row.heavy(name)) if values else "-"


def _rate_text(row: Row) -> str:
    lr = f"{row.rate[0]:g}{'*' if row.at_edge else ''}"
    if len({ssm_lr for _, ssm_lr in row.tried}) > 1:
        lr += f" ssm {row.rate[1]:g}"
    return f"{lr} of {len(row.tried)}" if len(row.tried) > 1 else lr


def notes_of(runs: Sequence[Run], rows: Sequence[Row], num_trials: int = 0) -> list[str]:
    """What is said below the table: runs that are not in it, or not with all of their seeds.

    Args:
        runs: All.
        rows: Of the table.
        num_trials: Of the runs, that tried rates for others and have no row.
    """
    lines: list[str] = []
    lines += [
        f"damaged: {short_path(run.directory)}: {run.damage}; none of it is in the table"
        for run in runs
        if run.damage
    ]
    unfinished = _unfinished(runs)
    if unfinished:
        lines.append(
            f"not finished: {len(unfinished)} of {len(runs)} runs; if none trains, go on with"
        )
    for run in unfinished:
        logged = f"logged up to step {run.step}" if run.resumable else "from step 0"
        done = f"{logged} of {run.settings.get('max_steps')}"
        lines.append(f"  {typed_resume('train.py', run.directory)}  # {done}")
    for run in runs:
        for name, cause in run.diverged.items():
            who = f"{short_path(run.directory)}{f' {name}' if name else ''}"
            lines.append(f"diverged: {who}: {cause}")
    if num_trials:
        lines.append(
            f"left out: {num_trials} shorter runs in *-rates-*, in which rates were tried for the "
            "others; each is shown by its own directory"
        )
    for row in rows:
        lines += _notes_of_choice(row)
    for path in dict.fromkeys(row.not_chosen for row in rows if row.not_chosen is not None):
        lines.append(
            f"each rate a row: {short_path(path)} has no validation errors in csv to choose by"
        )
    for directory in dict.fromkeys(path for row in rows for path in row.repeated):
        lines.append(f"left out: {short_path(directory)}, a later run repeats its seeds")
    return lines


def _unfinished(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if not (run.finished or run.diverged or run.damage)]


def _notes_of_choice(row: Row) -> list[str]:
    """Why another rate may be meant than the one that was kept."""
    settings = "".join(f" {name}={value}" for name, value in _shown(row).items())
    lines = []
    if row.better:
        error = plain(fmean(trial.validation or 0.0 for trial in row.better))
        kept = "" if row.validation is None else f" to {plain(row.validation)}"
        lines.append(
            f"fewer seeds, smaller error: {row.architecture}{settings} at "
            f"{row.better[0].rate[0]:g}, {error}{kept} in validation, {len(row.better)} of "
            f"{len(row.trials)} seeds"
        )
    if row.beside_trials:
        others = ", ".join(f"{lr:g}" for lr, _ in row.beside_trials)
        lines.append(
            f"rate chosen by the seeds shown: {row.architecture}{settings} at {row.rate[0]:g}, not "
            f"at {others}; the study goes by its trials and may show another"
        )
    return lines


def as_data(rows: Iterable[Row], runs: Iterable[Run]) -> dict[str, Any]:
    """Rows with every number of every seed, and the runs that are not in them, as plain data."""
    return {
        "rows": [
            {
                "architecture": row.architecture,
                "settings": row.settings,
                "error": row.metric,
                "reference": row.reference,
                "lr": row.rate[0],
                "ssm_lr": row.rate[1],
                "rates_tried": [list(rate) for rate in row.tried],
                "validation": row.validation,
                # Of a rate that was not kept there is nothing but its errors in validation.
                "num_parameters": row.trials[0].num_parameters or None,
                "test_episodes": row.num_tests or None,
                "seconds": row.seconds or None,
                "seeds": [trial.seed for trial in row.trials],
                "runs": [str(run) for run in dict.fromkeys(t.run for t in row.trials)],
                "numbers": {
                    name: {**_interval(row, name), "values": row.values(name)}
                    for name in dict.fromkeys(n for t in row.trials for n in t.numbers)
                },
            }
            for row in rows
        ],
        "unfinished": [str(run.directory) for run in _unfinished(runs)],
        "diverged": {str(run.directory): run.diverged for run in runs if run.diverged},
        "damaged": {str(run.directory): run.damage for run in runs if run.damage},
    }


def _interval(row: Row, name: str) -> dict[str, float | None]:
    """A mean over seeds, half its interval where the tail allows one, and what the tail carries."""
    mean, ci95 = row.over_seeds(name)
    ci95 = None if row.heavy(name) else ci95
    return {"mean": mean, "ci95": ci95, "worst_share": row.worst_share(name)}


def table_of(rows: Sequence[Row]) -> list[list[str]]:
    """Rows as the cells of a file, the first with the headings; settings have a column each."""
    settings = list(dict.fromkeys(name for row in rows for name in _shown(row)))
    headings = ["architecture", *settings, "error", "mean", "ci95", "worst_share", "reference"]
    headings += ["ratio", "ratio_ci95", "ratio_worst_share", "parameters", "seconds", "lr"]
    headings += ["ssm_lr", "rates_tried", "validation", "seeds", "test_episodes"]
    lines = [headings]
    for row in rows:
        numbers: list[Any] = []
        for label, name in ((row.metric, row.metric), (row.reference, row.ratio)):
            found = _interval(row, name) if row.values(name) else {}
            numbers += [label, *(found.get(key) for key in ("mean", "ci95", "worst_share"))]
        # Of a rate that was not kept there is nothing but its errors in validation.
        numbers += [row.trials[0].num_parameters or None, row.seconds or None, *row.rate]
        numbers += [len(row.tried), row.validation, len(row.trials), row.num_tests or None]
        cells = [row.architecture, *(_shown(row).get(name) for name in settings), *numbers]
        lines.append(["" if cell is None else str(cell) for cell in cells])
    return lines


def as_csv(rows: Sequence[Row]) -> str:
    """Rows as comma-separated values."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(table_of(rows))
    return text.getvalue()


def as_markdown(rows: Sequence[Row]) -> str:
    """Rows as a table of Markdown, numbers with as many digits as are known."""
    settings = list(dict.fromkeys(name for row in rows for name in _shown(row)))
    headings = ["architecture", *(f"`{name}`" for name in settings), "error", "value"]
    headings += ["/ algorithm", "parameters", "seconds", "rate", "seeds", "test episodes"]
    lines = [headings, ["---"] * len(headings)]
    for row in rows:
        ratio = f"{_over_seeds(row, row.ratio)} ({row.reference})" if row.reference else ""
        lines.append(
            [
                row.architecture,
                *(str(_shown(row).get(name, "")) for name in settings),
                loss_label(row.metric, at_place=True),
                _over_seeds(row, row.metric),
                ratio,
                f"{row.trials[0].num_parameters:,}" if row.trials[0].num_parameters else "",
                f"{row.seconds:,.0f}" if row.seconds else "",
                _rate_text(row),
                str(len(row.trials)),
                f"{row.num_tests:,}" if row.num_tests else "",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
