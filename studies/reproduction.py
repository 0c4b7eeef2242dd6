"""A study from its trainings to its page."""

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import matplotlib
import torch
from rich.console import Console

import zoo
from studies.jobs import Job, run_dirs
from studies.page import LAYOUT, read_results, write_page
from studies.plan import Effort, Training
from studies.progress import Progress
from studies.runner import Runner, Train, TrainingFailed, train_all
from studies.stages import GivenUp, finished_jobs, rates_given_up, stages
from studies.study import Places, Study
from studies.trainings import seconds_of, seconds_of_lost, training_row
from zoo.files import sole_writer, write_figure, write_json
from zoo.hub.directory import read_card
from zoo.terminal import StoppedBySignal


def machine() -> str:
    """What this process computes on: the graphics card by its name, else cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} cores of {platform.machine()}, no GPU"


def reproduce(
    study: Study,
    names: Sequence[str],
    effort: Effort,
    runs: Path,
    runner: Runner,
    train: Train,
    places: Places,
    console: Console,
) -> dict[str, Any]:
    """Trains what is missing, measures and draws each figure, and writes results and page.

    The results file keeps the figures that were made before, by an earlier command. Needs Hydra
    initialised with the directory `configs`.

    Args:
        study: What is made.
        names: Which of its figures.
        effort: How much is trained and measured.
        runs: Where finished runs are kept.
        runner: How trainings are run.
        train: Trains one, in a process that `runner` chooses.
        places: Where page and results are written; drawings go beside the results.
        console: Where progress is shown.

    Returns:
        The content of the results file.

    Raises:
        ValueError: If what the study needs is not installed, two trainings have one name, a results
            file is there that cannot be read, or another process uses `runs`.
        TrainingFailed: If a run fails, or one of its seeds diverges; the figures that need none of
            these are made nevertheless.
    """
    study.check()
    of_figures = {name: study.figures[name].trainings(effort) for name in names}
    needed = trainings_of(of_figures)
    failure: TrainingFailed | None = None
    runs.mkdir(parents=True, exist_ok=True)
    places.results.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"layout": LAYOUT, "figures": {}}
    progress = Progress(console, len(names))
    with sole_writer(runs), progress.shown():
        if places.results.exists():
            results = read_results(study, places.results)
        try:
            train_all(needed, effort, runs, runner, train, progress)
        except TrainingFailed as error:
            failure = error
        except StoppedBySignal:
            ready = [name for name in of_figures if _trained(of_figures[name], effort, runs)]
            if ready:
                progress.say(f"all is trained for figure=[{','.join(ready)}]")
            raise
        for name, trainings in of_figures.items():
            if failure and not _trained(trainings, effort, runs):
                continue
            of_training = [list(stages(training, effort, runs)) for training in trainings]
            given_up = {x.name: rates_given_up(x, effort, runs) for x in trainings}
            found = measured(study, name, of_training, given_up, effort, places.results.parent)
            if places.results.exists():  # another command may have made other figures meanwhile
                results = read_results(study, places.results)
            results["figures"][name] = found
            # After each figure: the next one may be interrupted.
            write_json(places.results, results)
            write_page(study, places)
            progress.drawn(name)
    if failure:
        raise failure
    return results


def _trained(trainings: Sequence[Training], effort: Effort, runs: Path) -> bool:
    return all(finished_jobs(training, effort, runs) is not None for training in trainings)


def trainings_of(of_figures: Mapping[str, Sequence[Training]]) -> list[Training]:
    """Those of all figures, which may share them.

    Raises:
        ValueError: If two have one name.
    """
    by_name: dict[str, Training] = {}
    for training in (training for of_one in of_figures.values() for training in of_one):
        if by_name.setdefault(training.name, training) != training:
            raise ValueError(f"two trainings are called {training.name!r}")
    return list(by_name.values())


def measured(
    study: Study,
    name: str,
    of_trainings: Sequence[Sequence[Sequence[Job]]],
    given_up: Mapping[str, Mapping[float, GivenUp]],
    effort: Effort,
    directory: Path,
) -> dict[str, Any]:
    """What the results file holds of a figure; writes its drawings into the directory.

    Args:
        study: Of the figure.
        name: Of the figure.
        of_trainings: For each training the jobs of its stages, all of them finished.
        given_up: By its name, the rates that were better in the trial.
        effort: How much is measured.
        directory: For drawings.
    """
    runs = {jobs[0].training.name: run_dirs(jobs) for *_, jobs in of_trainings}
    rows = [
        training_row(jobs, [job for (job,) in trials], given_up.get(jobs[0].training.name, {}))
        for *trials, jobs in of_trainings
    ]
    lost = chain(*(one.jobs for of_rates in given_up.values() for one in of_rates.values()))
    every_run = {run for stage in chain(*of_trainings) for run in run_dirs(stage)}
    found = study.figures[name].make(runs, effort)
    drawings = []
    for drawing, (figure, caption) in found.figures.items():
        file = f"{name}_{drawing}.svg"
        # The same drawing is the same file: without a date and with ids that are not random.
        with matplotlib.rc_context({"svg.hashsalt": file}):
            write_figure(directory / file, figure, metadata={"Date": None})
        drawings.append({"file": file, "caption": caption})
    # Trainings may share a trial.
    cards = [read_card(run / "checkpoint") for run in sorted(every_run)]
    versions: dict[str, set[str]] = {}
    for card in cards:
        for package, number in card.versions.items():
            versions.setdefault(package, set()).add(number)
    if not cards:  # nothing is trained: those that measure
        versions = {"icl-zoo": {zoo.__version__}, "torch": {torch.__version__}}
    return {
        "title": study.figures[name].title,
        "figures": drawings,
        "claims": [claim.as_dict() for claim in found.claims],
        "trainings": [row._asdict() for row in rows],
        "made": {
            "command": shlex.join(["python", "reproduce.py", *sys.argv[1:]]),
            "quick": effort != study.full,
            "seeds": list(effort.seeds),
            "num_episodes": effort.num_episodes,
            "training_s": round(sum(map(seconds_of, cards)) + seconds_of_lost(lost), 1),
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": machine(),
            # Of the code that trained, which may be older than that which measures.
            "git_commits": sorted({_short(card.git_commit) for card in cards if card.git_commit}),
            "versions": {package: sorted(numbers) for package, numbers in versions.items()},
        },
    }


def _short(commit: str) -> str:
    """The first ten digits, and whether files had changed since."""
    return f"{commit[:10]}{'-dirty' if '-dirty' in commit else ''}"
