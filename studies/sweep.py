"""What the runs of a multirun reached: one line each, and the mean over the seeds.

python train.py -m model=gd_ssm,linear_transformer seed=0,1,2 hydra.sweep.dir=runs/sweep
python -m studies.sweep runs/sweep

Runs that differ in their seed alone are summarised together, as mean and half the 95 % interval
(Student's t) over the seeds; a run of several seeds (`seeds=8`) counts as one run for each of them.
The table goes to the terminal and to `summary.csv` in the directory.
"""

import csv
import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from zoo.files import write_text
from zoo.metrics.errors import interval_over_seeds
from zoo.metrics.text import error_over_runs, with_interval
from zoo.terminal import outlive_readers
from zoo.training.directory import CONFIG, read_config

# Of these cosines of trained and constructed weights the smallest is shown.
COSINES = ("cosine_Q", "cosine_D", "cosine_C")
# Settings that say which run it is or what it is called, not what was trained.
NAMES = ("seed", "seeds", "run_dir", "resume", "checkpoint_tag")


class Run(NamedTuple):
    """A finished run: its settings by dotted name, and the numbers that are compared."""

    name: str
    settings: dict[str, Any]
    numbers: dict[str, float]


def read_run(path: Path) -> Run:
    """The run whose `metrics.json` it is."""
    metrics: dict[str, Any] = json.loads(path.read_text())
    of_several = not (path.parent / CONFIG).exists()  # the directory of a seed in a run
    run_dir = path.parent.parent if of_several else path.parent
    settings = dict(_leaves(OmegaConf.to_container(read_config(run_dir / CONFIG))))
    if of_several:
        settings["seed"] = int(path.parent.name.removeprefix("seed_"))
    numbers = {
        name: metric["value"]
        for name, metric in metrics["model"].items()
        if name.endswith(("_query", "accuracy", "cosine")) or "ratio" in name
    }
    if all(name in metrics.get("weights", {}) for name in COSINES):
        numbers["least cosine of Q, D, C"] = min(metrics["weights"][name] for name in COSINES)
    if metrics["first_step_within_1_percent"] is not None:
        numbers["first step within 1 %"] = metrics["first_step_within_1_percent"]
    return Run(path.parent.name, settings, numbers)


def _leaves(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(part, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, value


def varied(runs: list[Run]) -> list[str]:
    """Names of the settings, other than seed and names, that are not the same in all runs."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return [
        name
        for name in names
        if name not in NAMES and len({str(run.settings.get(name)) for run in runs}) > 1
    ]


def groups(runs: list[Run]) -> dict[str, list[Run]]:
    """The runs that differ in their seed alone, by the settings that set them apart."""
    names = varied(runs)
    # What a model is called says enough where its arguments follow from that.
    if "model.name" in names:
        names = [n for n in names if n == "model.name" or not _follows(n, runs)]
    found: dict[str, list[Run]] = {}
    for run in runs:
        key = " ".join(f"{name}={run.settings.get(name)}" for name in names)
        found.setdefault(key or "all", []).append(run)
    return found


def _follows(name: str, runs: list[Run]) -> bool:
    """Whether a setting is the same for all runs of the same architecture."""
    values: dict[Any, set[str]] = {}
    for run in runs:
        values.setdefault(run.settings["model.name"], set()).add(str(run.settings.get(name)))
    return all(len(found) == 1 for found in values.values())


def main(directory: Path) -> None:
    found = [*directory.glob("*/metrics.json"), *directory.glob("*/seed_*/metrics.json")]
    paths = sorted(
        (path for path in found if not any(path.parent.glob("seed_*"))),
        key=lambda path: [part.zfill(8) for part in path.relative_to(directory).parts],
    )
    if not paths:
        sys.exit(f"no finished run in {directory}")
    runs = [read_run(path) for path in paths]
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
            # Cosines may be below zero; the other numbers are errors, their ratios and steps.
            shown = (with_interval if "cosine" in name else error_over_runs)(middle, half)
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


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m studies.sweep DIRECTORY")
    outlive_readers()
    main(Path(sys.argv[1]))
