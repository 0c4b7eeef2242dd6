"""Trains and measures what the paper's figures show, and writes the page about it."""

import os
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hydra
import matplotlib
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError
from rich.console import Console
from rich.table import Table

from studies.page import LAYOUT, PAGE, RESULTS, read_results, summary_rows, write_page
from studies.paper.figures import FIGURES, letters_of
from studies.plan import FULL, QUICK, Effort, Job, plan, run_dirs
from studies.runner import TrainingFailed, train_all
from zoo.errors import explain
from zoo.files import CONFIGS, ROOT, sole_writer, write_figure, write_json
from zoo.hub.directory import read_card
from zoo.terminal import StoppedBySignal, outlive_readers, raise_on_signals

QUICK_OUTPUT = ROOT / "runs" / "paper-quick"


class ReproduceSettings(BaseModel):
    """The settings in `configs/reproduce.yaml`, where each is explained, as plain data."""

    model_config = ConfigDict(extra="forbid", strict=True)

    figure: str | list[str]
    quick: bool
    runs: str
    side_by_side: PositiveInt


def reproduce(
    letters: Sequence[str],
    effort: Effort,
    runs: Path,
    side_by_side: int,
    page_path: Path,
    results_path: Path,
    console: Console,
) -> dict[str, Any]:
    """Trains what is missing, measures and draws each figure, and writes results and page.

    The results file keeps the figures that were made before, by an earlier command. Needs Hydra
    initialised with the directory `configs`.

    Args:
        letters: The figures to make.
        effort: How much is trained and measured.
        runs: Where finished runs are kept.
        side_by_side: Runs at a time.
        page_path: Where the page is written.
        results_path: Where the results are written; figures go beside them.
        console: Where progress is shown.

    Returns:
        The content of the results file.
    """
    needed = {t.name: t for letter in letters for t in FIGURES[letter].trainings(effort)}
    jobs = plan(needed.values(), effort, runs)
    runs.mkdir(parents=True, exist_ok=True)
    results_path.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"layout": LAYOUT, "figures": {}}
    with sole_writer(runs):
        if results_path.exists():
            results = read_results(results_path)
        every_job = [job for of_training in jobs.values() for job in of_training]
        train_all(every_job, side_by_side, console)
        for letter in letters:
            with console.status(f"figure {letter}"):
                own = [jobs[training.name] for training in FIGURES[letter].trainings(effort)]
                found = measured(letter, own, effort, results_path.parent)
            if results_path.exists():  # another command may have made other figures meanwhile
                results = read_results(results_path)
            results["figures"][letter] = found
            # After each figure: the next one may be interrupted.
            write_json(results_path, results)
            write_page(page_path, results_path)
            where = results_path.parent
            console.print(f"figure {letter}  {where}", soft_wrap=True, highlight=False)
    return results


def measured(letter: str, jobs: list[list[Job]], effort: Effort, directory: Path) -> dict[str, Any]:
    """What the results file holds of a figure; writes its drawings into the directory."""
    runs = {of_training[0].training.name: run_dirs(of_training) for of_training in jobs}
    found = FIGURES[letter].make(runs, effort)
    drawings = []
    for name, (figure, caption) in found.figures.items():
        file = f"{letter}_{name}.svg"
        # The same drawing is the same file: without a date and with ids that are not random.
        with matplotlib.rc_context({"svg.hashsalt": file}):
            write_figure(directory / file, figure, metadata={"Date": None})
        drawings.append({"file": file, "caption": caption})
    cards = [read_card(run / "checkpoint") for of_name in runs.values() for run in of_name]
    versions: dict[str, set[str]] = {}
    for card in cards:
        for name, number in card.versions.items():
            versions.setdefault(name, set()).add(number)
    return {
        "title": FIGURES[letter].title,
        "figures": drawings,
        "claims": [claim.as_dict() for claim in found.claims],
        "made": {
            "command": shlex.join(["python", "reproduce.py", *sys.argv[1:]]),
            "quick": effort != FULL,
            "seeds": list(effort.seeds),
            "num_episodes": effort.num_episodes,
            "training_s": round(sum(card.training.wall_time_s for card in cards), 1),
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            # Of the code that trained, which may be older than that which measures.
            "git_commits": sorted({card.git_commit[:10] for card in cards if card.git_commit}),
            "versions": {name: sorted(numbers) for name, numbers in versions.items()},
        },
    }


def claims_table(results: dict[str, Any]) -> Table:
    """The paper's claims with their verdicts."""
    table = Table(title="what the paper claims")
    for heading in ("", "claim", "verdict", "by how much"):
        table.add_column(heading)
    for row in summary_rows(results["figures"]):
        table.add_row(*row)
    return table


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="reproduce")
def command(config: DictConfig) -> None:
    """What is done with the composed settings. What a user got wrong is one line, not a trace."""
    console = Console()
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True)
        settings = ReproduceSettings(**plain)
        letters = letters_of(settings.figure)
        quick = settings.quick
        page_path = QUICK_OUTPUT / "paper.md" if quick else PAGE
        results_path = QUICK_OUTPUT / "results.json" if quick else RESULTS
        results = reproduce(
            letters,
            QUICK if quick else FULL,
            Path(settings.runs),
            settings.side_by_side,
            page_path,
            results_path,
            console,
        )
    except (ValueError, OSError, TrainingFailed) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        text = explain(error) if isinstance(error, ValidationError) else str(error)
        sys.exit(f"{type(error).__name__}: {text}\n(HYDRA_FULL_ERROR=1 shows where)")
    console.print(claims_table(results))
    console.print(f"page     {page_path}", soft_wrap=True, highlight=False)
    console.print(f"results  {results_path}", soft_wrap=True, highlight=False)


def main() -> None:
    """Reads the command line, to the exit of the process."""
    outlive_readers()
    # Runs under way save their state. They have sessions of their own, which no signal reaches.
    raise_on_signals()
    try:
        command()
    except StoppedBySignal as stopped:
        print(f"\n{stopped}; the same command goes on from here", file=sys.stderr)
        sys.exit(128 + stopped.signum)
