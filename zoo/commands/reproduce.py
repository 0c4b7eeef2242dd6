"""Trains and measures the figures of a study, and writes the page about it."""

import sys
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from studies.jobs import Job
from studies.page import summary_rows
from studies.reproduction import reproduce
from studies.runner import Runner, TrainingFailed
from studies.study import Study, load_study
from zoo.commands.settings import ReproduceSettings
from zoo.commands.train import train
from zoo.errors import refusing
from zoo.files import CONFIGS, sole_writer
from zoo.terminal import StoppedBySignal, raise_on_signals
from zoo.threads import describe
from zoo.training.directory import config_of_run
from zoo.training.overrides import literal


def claims_table(study: Study, results: dict[str, Any]) -> Table:
    """The claims with their verdicts.

    Args:
        study: Whose claims.
        results: The content of its results file.
    """
    table = Table()
    table.add_column("", no_wrap=True)
    for heading in ("claim", "by", "verdict", "by how much"):
        table.add_column(heading)
    for row in summary_rows(study, results["figures"]):
        table.add_row(*row)
    return table


def train_job(job: Job) -> None:
    """Trains a part of a study in this process, as `python train.py` does, or goes on with it."""
    place = job.place.resolve()
    config = job.config.copy()
    config.seed, config.run_dir = job.seeds[0], literal(str(place))
    with sole_writer(place):
        train(config_of_run(config, set()), place, Console(), job.typed)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="reproduce")
def command(config: DictConfig) -> None:
    """What is done with the composed settings. What a user got wrong is one line, not a trace."""
    console = Console(file=sys.stdout)  # which trainings write to their logs
    with refusing(ValueError, OSError, TrainingFailed):
        plain: Any = OmegaConf.to_container(config, resolve=True)
        settings = ReproduceSettings(**plain)
        study = load_study(settings.study)
        figures, places = study.chosen(settings.figure), study.places(settings.quick)
        threads = describe(torch.get_num_threads())
        console.print(f"measuring with {threads}", highlight=False)
        results = reproduce(
            study,
            figures,
            study.effort(settings.quick),
            Path(settings.runs),
            Runner(settings.runner, settings.side_by_side, settings.submitit),
            train_job,
            places,
            console,
        )
    if summary_rows(study, results["figures"]):  # a study may judge nothing
        console.print(claims_table(study, results))
    console.print(f"page     {places.page}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"results  {places.results}", soft_wrap=True, highlight=False, markup=False)


def main() -> None:
    """Reads the command line, to the exit of the process."""
    # Trainings under way save their state.
    raise_on_signals()
    try:
        command()
    except StoppedBySignal as stopped:
        print(f"\n{stopped}; the same command goes on from here", file=sys.stderr)
        sys.exit(128 + stopped.signum)
