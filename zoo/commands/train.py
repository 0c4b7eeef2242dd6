"""Trains a model on episodes drawn on the fly, measures it and exports it as a checkpoint."""

import logging
import os
import shlex
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from zoo.commands.resolvers import register_resolvers
from zoo.evaluation.report import report_tables
from zoo.evaluation.seeds import rates_table, seeds_table
from zoo.evaluation.tables import Grid
from zoo.files import CONFIGS, refuse_links, sole_writer
from zoo.terminal import StoppedBySignal, plain_warning, raise_on_signals
from zoo.training.base import NonFiniteError
from zoo.training.directory import CONFIG, METRICS, config_of_run, run_directory
from zoo.training.measure import CONVERGENCE, Outcome, measure
from zoo.training.overrides import (
    check_mode,
    literal,
    typed_keys,
    typed_path,
    typed_resume,
)
from zoo.training.private import rank_of_process
from zoo.training.run import Run, assemble, fit
from zoo.training.targets import shipped_targets, targets_of
from zoo.training.write import write

# Which devices there are, how ticks could be loaded by more workers, and what Lightning's own
# internals should call differently, is nothing a user can act on.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", ".*does not have many workers.*")
warnings.filterwarnings("ignore", ".*LeafSpec.*")

# With these there is a run already, or none is made where one would be.
MAKES_NO_RUN = {"resume", "-m", "--multirun", "-c", "--cfg", "-i", "--info", "--hydra-help"}

register_resolvers()


def train(
    config: DictConfig, run_dir: Path, console: Console, typed: Sequence[str]
) -> tuple[dict[str, Any], Run]:
    """Trains, measures and exports; `run_dir` may hold an earlier part of the same run.

    Args:
        config: As composed from `configs/train.yaml`.
        run_dir: Where everything is written.
        console: Where it is said what is done, and the tables at the end are printed.
        typed: The words behind `python` that make the run, for its card. Where it is written, which
            changes nothing of what comes out, is left out.

    Returns:
        The content of `metrics.json` (empty on all ranks but the first), and what took part.
    """

    def say(line: str) -> None:
        console.print(line, highlight=False)

    words = [word for word in typed if not word.startswith("hydra.run.dir=")]
    run = assemble(config, run_dir, shlex.join(["python", *words]), say)
    models = fit(run)
    if not run.trainer.is_global_zero:
        return {}, run
    outcomes = measure(run, models, say)
    metrics = write(run, outcomes)
    show(run, outcomes, metrics, console)
    return metrics, run


def show(
    run: Run, outcomes: Mapping[int, Outcome], metrics: dict[str, Any], console: Console
) -> None:
    """Prints what a run reached and where it lies."""
    for table in tables_of(run, outcomes, metrics):
        console.print(table)
    for seed, outcome in outcomes.items():
        if verdict := outcome.metrics.get(CONVERGENCE):
            console.print(convergence_text(seed, verdict), highlight=False)
    checkpoint = run.directory / run.prefix("*") / "checkpoint"
    # A path is no markup.
    console.out(f"checkpoint  {checkpoint}", highlight=False)
    console.out(f"metrics     {run.directory / METRICS}", highlight=False)
    curves = f"tensorboard --logdir {typed_path(run.directory.parent)}"
    console.out(f"curves      {curves}", highlight=False)


def convergence_text(seed: int, verdict: Mapping[str, Any]) -> str:
    """A line on whether the loss of a seed had stopped falling before the rate decayed."""
    if verdict["fall"] is None:
        why = f"it has {verdict['num_validations']} validations, a smaller val_every helps"
    else:
        why = f"the loss fell by {100 * verdict['fall']:.1f} %"
    return f"seed {seed}: {verdict['verdict']} (last third of the constant rate: {why})"


def tables_of(run: Run, outcomes: Mapping[int, Outcome], metrics: dict[str, Any]) -> list[Grid]:
    """All that is known of the only seed, or what is compared over several."""
    choice = run.module.choice
    tables = []
    if choice.errors:
        tables.append(rates_table(choice.errors, choice.rate[0], run.settings.seeds))
    if run.settings.seeds > 1:
        return [*tables, seeds_table(metrics, run.module.diverged)]
    reports = (report_tables(outcome.report) for outcome in outcomes.values())
    return [*tables, *(table for of_one in reports for table in of_one)]


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def command(config: DictConfig) -> float | None:
    """What is done with the composed settings. What a user got wrong is one line, not a trace.

    Returns:
        The validation error at the query, for a sweeper that searches (on the first rank); infinite
        if one of several seeds diverged.
    """
    raise_on_signals()
    register_resolvers()
    warnings.formatwarning = plain_warning  # Lightning's begins with its own file
    hydra_config = HydraConfig.get()
    runtime: Any = OmegaConf.to_container(hydra_config.runtime, resolve=False)
    run_dir = Path(runtime["output_dir"])  # where Hydra put it; not resolved, it may have a ${
    typed = hydra_config.overrides.task
    multirun = hydra_config.mode == RunMode.MULTIRUN

    def resume_hint() -> str:
        targets = targets_of(OmegaConf.to_container(config, resolve=True))
        allowed = sorted(targets - shipped_targets(CONFIGS))
        hint = typed_resume(sys.argv[0], run_dir, allowed, config.text)
        placed = [word for word in hydra_config.overrides.hydra if "sweep.dir=" in word]
        if not multirun or not placed:  # elsewhere the same command begins a sweep of its own
            return hint
        return f"{hint}\nor with all runs of the sweep by the same command again"

    with one_line_exits(run_dir, resume_hint):
        with sole_writer(run_dir) if rank_of_process() == 0 else nullcontext():
            check_mode([*typed, *hydra_config.overrides.hydra], multirun)
            keys = typed_keys(typed)
            if "run_dir" in keys:
                raise ValueError("run_dir cannot be set, it follows from hydra.run.dir=DIRECTORY")
            if config.resume is not None and multirun:
                raise ValueError("resume goes on with one run, without -m")
            config.run_dir = literal(str(run_dir))
            config = config_of_run(config, keys)
            refuse_links(*run_dir.glob("*"))
            metrics, run = train(config, run_dir, Console(quiet=rank_of_process() != 0), sys.argv)
        return run.module.objective() if metrics else None


def check_can_be_made(directory: Path) -> None:
    """Ends the process with one line where a directory cannot be made; nothing stays of it."""
    new = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"error: the run directory cannot be made: {error}")
    finally:
        with suppress(OSError):  # somebody else has begun to use it
            for path in new:
                if path.is_dir():
                    path.rmdir()


@contextmanager
def one_line_exits(run_dir: Path, resume_hint: Callable[[], str]) -> Iterator[None]:
    """Ends the process with one line where it was stopped or a user got something wrong.

    Args:
        run_dir: Of the run.
        resume_hint: What is typed to go on with it.
    """
    try:
        yield
    except StoppedBySignal as stopped:
        if rank_of_process() == 0:
            begun = (run_dir / CONFIG).exists()
            go_on = f"; go on with\n  {resume_hint()}" if begun else " before anything was written"
            print(f"\n{stopped}{go_on}", file=sys.stderr)
            if stopped.signum == signal.SIGUSR1:
                # The job starts again under its id, finds its run directory and goes on with it.
                subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True)
        sys.exit(128 + stopped.signum)
    except (
        ValueError,
        OSError,
        NonFiniteError,
        MisconfigurationException,
        OmegaConfBaseException,
    ) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        text = str(error)
        if isinstance(error, OSError) and (run_dir / CONFIG).exists():  # most likely a full disk
            text += f"\nonce that is put right, go on with\n  {resume_hint()}"
        sys.exit(f"error: {text}\n(HYDRA_FULL_ERROR=1 shows where)")
    except RuntimeError as error:
        # gloo has no type of its own for a connection that broke or timed out
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
            raise
        sys.exit(
            f"rank {rank_of_process()} has lost another rank, which ended or hangs:\n{error}\n"
            f"go on with\n  {resume_hint()}"
        )


def main() -> None:
    """Reads the command line, to the exit of the process; `zoo.commands.door` has looked at it."""
    raise_on_signals()
    typed = {key.lstrip("+"): value for key, _, value in (a.partition("=") for a in sys.argv[1:])}
    place = typed.get("hydra.run.dir", run_directory(None)).strip("'\"")
    if "$" not in place and not typed.keys() & MAKES_NO_RUN and rank_of_process() == 0:
        check_can_be_made(Path(place))
    try:
        command()
    except StoppedBySignal as stopped:  # before the run has begun
        sys.exit(128 + stopped.signum)
