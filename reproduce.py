"""Trains and measures what the paper's figures show, and writes the page about it."""

import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import hydra
import lightning.pytorch as pl
import matplotlib
import torch
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError
from rich.console import Console
from rich.table import Table

import zoo
from paper.figures import FIGURES, letters_of
from paper.page import PAGE, RESULTS, summary_rows, write_page
from paper.plan import FULL, QUICK, ROOT, Effort, Job, plan, run_dirs
from paper.runner import TrainingFailed, train_all
from results import git_commit
from zoo.hub.io import read_card
from zoo.registry import explain
from zoo.training.run import write_json

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
    train_all([job for of_training in jobs.values() for job in of_training], side_by_side, console)
    results = {"figures": {}}
    if results_path.exists():
        results = json.loads(results_path.read_text())
    results_path.parent.mkdir(parents=True, exist_ok=True)
    for letter in letters:
        with console.status(f"figure {letter}"):
            own = [jobs[training.name] for training in FIGURES[letter].trainings(effort)]
            results["figures"][letter] = measured(letter, own, effort, results_path.parent)
        # After each figure: the next one may be interrupted.
        write_json(results_path, results)
        write_page(page_path, results_path)
        console.print(f"figure {letter}  {results_path.parent}", soft_wrap=True, highlight=False)
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
            figure.savefig(directory / file, metadata={"Date": None})
        drawings.append({"file": file, "caption": caption})
    # The time in a card is that of the process, whether it trained one seed or several.
    cards = [read_card(job.run_dirs[0] / "checkpoint") for of_name in jobs for job in of_name]
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
            "git_commit": git_commit(),
            "versions": {
                "icl-zoo": zoo.__version__,
                "torch": torch.__version__,
                "lightning": pl.__version__,
            },
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


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@hydra.main(version_base="1.3", config_path="configs", config_name="reproduce")
def main(config: DictConfig) -> None:
    """The command line. What a user got wrong is one line, not a trace."""
    console = Console()
    signal.signal(signal.SIGTERM, _interrupt)  # as Ctrl-C: runs under way save their state
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
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    console.print(claims_table(results))
    console.print(f"page     {page_path}", soft_wrap=True, highlight=False)
    console.print(f"results  {results_path}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
