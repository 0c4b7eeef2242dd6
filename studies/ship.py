"""Makes checkpoints of what a study has trained, as its table `ships` says.

    python -m studies.ship NAME [RUNS]

RUNS is the directory of its finished runs, `runs/NAME` unless given. What has not finished is left
as it is. Nothing is trained.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra

from studies.jobs import Job, errors_of_rates
from studies.plan import Effort
from studies.stages import finished_jobs, rates_given_up, stages
from studies.study import Shipped, Study, load_study
from zoo.errors import unknown
from zoo.files import CONFIGS
from zoo.hub.directory import read_card
from zoo.hub.export import Export, export_all
from zoo.hub.find import CHECKPOINTS


def ship(
    study: Study, effort: Effort, runs: Path, directory: Path = CHECKPOINTS
) -> tuple[list[Path], list[str]]:
    """Exports what has finished; the checkpoints that have these names are replaced.

    Needs Hydra initialised with the directory `configs`.

    Args:
        study: Whose trainings.
        effort: How much was trained.
        runs: Where its finished runs are.
        directory: Of the checkpoints.

    Returns:
        The directories of the checkpoints, and the names of the trainings that have not finished.

    Raises:
        ValueError: If the study ships nothing, or a training that it does not have.
        FileNotFoundError: If there is no such directory of runs.
        CheckpointError: If a run or a name cannot be used; then nothing is written.
    """
    if not study.ships:
        raise ValueError(f"the study {study.name} ships no checkpoints")
    if not runs.is_dir():
        raise FileNotFoundError(f"there is no directory {runs}; python reproduce.py makes runs")
    figures = study.figures.values()
    trainings = {t.name: t for figure in figures for t in figure.trainings(effort)}
    exports: list[Export] = []
    unfinished = []
    for name, shipped in study.ships.items():
        if name not in trainings:
            raise ValueError(unknown("training", name, trainings))
        training = trainings[name]
        if finished_jobs(training, effort, runs) is None:
            unfinished.append(name)
            continue
        *trials, jobs = stages(training, effort, runs)
        tried = _tried([trial for of_stage in trials for trial in of_stage])
        for rate, one in rates_given_up(training, effort, runs).items():
            why = "rates_given_up" if one.diverged else "rates_fell_short"
            tried.setdefault(why, {})[f"{rate:g}"] = one.diverged or one.above
        story = {"study": f"{study.name}/{name}", "num_seeds": len(training.seeds(effort))}
        exports += _exports(shipped, training.seeds(effort), jobs, story, tried)
    return export_all(exports, directory, replace=True), unfinished


def _exports(
    shipped: Shipped,
    seeds: tuple[int, ...],
    jobs: list[Job],
    story: dict[str, Any],
    tried: dict[str, Any],
) -> Iterator[Export]:
    """The seeds of a training that are shipped, under their names."""
    runs = {seed: run for job in jobs for seed, run in zip(job.seeds, job.run_dirs, strict=True)}
    for seed in seeds[: shipped.num_seeds]:
        name = shipped.name if seed == seeds[0] else f"{shipped.name}@{seed}"
        optimizer = read_card(runs[seed] / "checkpoint").training.optimizer | tried
        yield Export(runs[seed], name, story | {"optimizer": optimizer})


def _tried(trials: list[Job]) -> dict[str, Any]:
    """What a card says of rates that were tried beforehand; nothing where none were."""
    if not trials:
        return {}
    seed = str(trials[0].seeds[0])
    errors = {rate: error for trial in trials for rate, error in errors_of_rates(trial).items()}
    rates = {
        f"{rate:g}": {seed: error} if math.isfinite(error) else {}
        for rate, error in sorted(errors.items())
    }
    return {"rates": rates, "rates_steps": trials[0].steps}


def main() -> None:
    """Reads the command line, to the exit of the process."""
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python -m studies.ship NAME [RUNS]")
    try:
        study = load_study(sys.argv[1])
        runs = Path(sys.argv[2]) if len(sys.argv) == 3 else Path("runs", study.name)
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
            shipped, unfinished = ship(study, study.full, runs)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    for path in shipped:
        print(path)
    for name in unfinished:
        print(f"not finished: {name}")
    if not shipped:
        sys.exit("error: nothing is finished, so nothing was written")


if __name__ == "__main__":
    main()
