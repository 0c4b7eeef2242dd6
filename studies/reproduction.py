"""A study from its trainings to its page."""

import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
from rich.console import Console

from studies.page import LAYOUT, read_results, write_page
from studies.plan import Effort, Job, plan, run_dirs
from studies.runner import train_all
from studies.study import Places, Study
from studies.trainings import seconds_of, training_row
from zoo.files import sole_writer, write_figure, write_json
from zoo.hub.directory import read_card


def reproduce(
    study: Study,
    names: Sequence[str],
    effort: Effort,
    runs: Path,
    side_by_side: int,
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
        side_by_side: Runs at a time.
        places: Where page and results are written; drawings go beside the results.
        console: Where progress is shown.

    Returns:
        The content of the results file.

    Raises:
        ValueError: If a results file is there that cannot be read, or another process uses `runs`.
        TrainingFailed: If a run fails, or one of its seeds diverges.
    """
    needed = {t.name: t for name in names for t in study.figures[name].trainings(effort)}
    jobs = plan(needed.values(), effort, runs)
    runs.mkdir(parents=True, exist_ok=True)
    places.results.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"layout": LAYOUT, "figures": {}}
    with sole_writer(runs):
        if places.results.exists():
            results = read_results(study, places.results)
        every_job = [job for of_training in jobs.values() for job in of_training]
        train_all(every_job, side_by_side, console)
        for name in names:
            with console.status(f"figure {name}"):
                own = [jobs[training.name] for training in study.figures[name].trainings(effort)]
                found = measured(study, name, own, effort, places.results.parent)
            if places.results.exists():  # another command may have made other figures meanwhile
                results = read_results(study, places.results)
            results["figures"][name] = found
            # After each figure: the next one may be interrupted.
            write_json(places.results, results)
            write_page(study, places)
            console.print(
                f"figure {name}  {places.results.parent}", soft_wrap=True, highlight=False
            )
    return results


def measured(
    study: Study, name: str, jobs: Sequence[list[Job]], effort: Effort, directory: Path
) -> dict[str, Any]:
    """What the results file holds of a figure; writes its drawings into the directory.

    Args:
        study: Of the figure.
        name: Of the figure.
        jobs: Finished ones, for each of its trainings.
        effort: How much is measured.
        directory: For drawings.
    """
    runs = {of_training[0].training.name: run_dirs(of_training) for of_training in jobs}
    found = study.figures[name].make(runs, effort)
    drawings = []
    for drawing, (figure, caption) in found.figures.items():
        file = f"{name}_{drawing}.svg"
        # The same drawing is the same file: without a date and with ids that are not random.
        with matplotlib.rc_context({"svg.hashsalt": file}):
            write_figure(directory / file, figure, metadata={"Date": None})
        drawings.append({"file": file, "caption": caption})
    cards = [read_card(run / "checkpoint") for of_name in runs.values() for run in of_name]
    versions: dict[str, set[str]] = {}
    for card in cards:
        for package, number in card.versions.items():
            versions.setdefault(package, set()).add(number)
    return {
        "title": study.figures[name].title,
        "figures": drawings,
        "claims": [claim.as_dict() for claim in found.claims],
        "trainings": [training_row(of_training)._asdict() for of_training in jobs],
        "made": {
            "command": shlex.join(["python", "reproduce.py", *sys.argv[1:]]),
            "quick": effort != study.full,
            "seeds": list(effort.seeds),
            "num_episodes": effort.num_episodes,
            "training_s": round(sum(map(seconds_of, cards)), 1),
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            # Of the code that trained, which may be older than that which measures.
            "git_commits": sorted({card.git_commit[:10] for card in cards if card.git_commit}),
            "versions": {package: sorted(numbers) for package, numbers in versions.items()},
        },
    }
