"""Trains a model on episodes drawn on the fly, measures it and exports it as a checkpoint."""

import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hydra
import lightning.pytorch as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from rich.console import Console

from datamodules import EpisodeDataModule, EpisodeSpec, ReplicaDataModule
from datamodules.datamodule import EVAL_SEED
from zoo.errors import explain
from zoo.evaluation.report import create_report, report_tables
from zoo.evaluation.seeds import seeds_table
from zoo.files import CONFIGS, refuse_links, remove_half_written, sole_writer, write_json
from zoo.hub.io import save_checkpoint
from zoo.predictor import Predictor
from zoo.references import closed_form_of, references_of
from zoo.registry import create_model, model_arguments
from zoo.terminal import StoppedBySignal, outlive_readers, raise_on_signals
from zoo.training.callbacks import (
    AlignmentMonitor,
    Board,
    FigureMonitor,
    ReferenceMonitor,
    Resumable,
    TimeToSolution,
    WeightMonitor,
)
from zoo.training.checkpointing import AtomicCheckpointIO, check_state
from zoo.training.module import LitPredictor, NonFiniteError
from zoo.training.overrides import (
    check_mode,
    check_resume,
    check_sweep,
    literal,
    quote_paths,
    typed_keys,
    typed_path,
    typed_resume,
)
from zoo.training.private import rank_of_process
from zoo.training.replicas import LitReplicas
from zoo.training.results import card_of, hyperparameters_of, summarize, write_figures
from zoo.training.run import (
    CONFIG,
    METRICS,
    RunSettings,
    check_devices,
    check_plugins,
    check_seeds,
    check_world_size,
    config_of_run,
    run_directory,
    save_config,
    set_metrics_aside,
)
from zoo.training.targets import build, check_targets, shipped_targets, targets_of

# Which devices there are, how ticks could be loaded by more workers, and what Lightning's own
# internals should call differently, is nothing a user can act on.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", ".*does not have many workers.*")
warnings.filterwarnings("ignore", ".*LeafSpec.*")


def register_resolvers() -> None:
    """What the configs call; a launcher's process has to be told as well."""
    OmegaConf.register_new_resolver("new_run", run_directory, use_cache=True, replace=True)
    # Lightning's own choice may be an Apple GPU, without the float64 of solvers and metrics.
    OmegaConf.register_new_resolver(
        "gpu_or_cpu",
        lambda: "cuda" if torch.cuda.is_available() else "cpu",
        use_cache=True,
        replace=True,
    )


register_resolvers()


def train(
    config: DictConfig, run_dir: Path, console: Console
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains, tests and exports; `run_dir` may hold an earlier part of the same run.

    Args:
        config: As composed from `configs/train.yaml`.
        run_dir: Where everything is written.
        console: Where the tables at the end are printed.

    Returns:
        The content of `metrics.json` (empty on all ranks but the first), and the objects that took
        part: trainer, module, datamodule.
    """
    settings = RunSettings.of(config)
    if settings.resume is not None:  # what the run says, which may be somebody else's
        shipped = shipped_targets(CONFIGS)
        check_targets(settings.model_dump(), shipped.union(settings.allow_targets))
    check_devices(settings.trainer)
    spec = EpisodeSpec(**settings.data)
    model_args = {**settings.model, "d_x": spec.d_x, "d_y": spec.d_y}
    if spec.output == "logits":
        if "output" not in model_arguments(settings.model["name"]):
            raise ValueError(f"{settings.model['name']} does not predict classes, as data asks for")
        model_args["output"] = spec.output
    with torch.random.fork_rng(devices=[]):
        # Refuses wrong arguments before all else.
        heavy_tailed = create_model(**model_args).heavy_tailed
    callbacks = callbacks_of(settings)
    console.print("fitting the algorithms that the model is compared with", highlight=False)
    references = references_of(spec, settings.model)
    num_test = settings.num_test(heavy_tailed)
    parts = settings, spec, model_args, references["gradient_descent"], num_test
    module, datamodule = parts_of(*parts)
    resumable = Resumable(run_dir / "checkpoints", settings.checkpoint_every)
    board = Board(hyperparameters_of(settings, spec, module.optim))
    own = {
        "max_steps": settings.max_steps,
        "val_check_interval": settings.val_every * settings.trainer.accumulate_grad_batches,
        "callbacks": [*callbacks, ReferenceMonitor(references), board, resumable],
        "enable_progress_bar": any(isinstance(c, pl.callbacks.ProgressBar) for c in callbacks),
        "logger": [
            build(f"logger.{name}", part, Logger)  # type: ignore[type-abstract]
            for name, part in settings.logger.items()
            if part
        ],
        "plugins": [AtomicCheckpointIO()],
        "default_root_dir": run_dir,
    }
    given = settings.trainer.model_dump()
    if double := sorted(own.keys() & given.keys()):
        raise ValueError(f"trainer.{double[0]} cannot be set, train.py gives it to the trainer")
    trainer = build("trainer", given | own, pl.Trainer)
    multirun = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    check_world_size(trainer.world_size, multirun)
    check_seeds(settings, trainer.world_size, str(trainer.precision))
    datamodule.trainer = trainer
    datamodule.setup("fit")  # refuses a batch that does not divide, before anything is written
    objects = {"trainer": trainer, "module": module, "datamodule": datamodule}
    if isinstance(module, LitReplicas):
        module.configure_model()
        in_turn = module.takes_turns_on(trainer.strategy.root_device)
        way = "in turn within every step" if in_turn else "as one batch"
        console.print(f"{settings.seeds} seeds {way}; no alignment or figures before the end")
    if resumable.path.exists():
        check_state(resumable.path, trainer, module)
    if trainer.is_global_zero:
        run_dir.mkdir(parents=True, exist_ok=True)
        remove_half_written(run_dir)
        set_metrics_aside(run_dir, settings.max_steps)
        save_config(config, run_dir)
    trainer.fit(module, datamodule, ckpt_path=resumable.path if resumable.path.exists() else None)
    models = module.whole_models()
    if not trainer.is_global_zero:
        return {}, objects

    first_steps = {c.metric: c.first_step for c in callbacks if isinstance(c, TimeToSolution)}
    all_metrics, reports, cards = {}, {}, {}
    for seed, model in models.items():
        console.print(f"measuring seed {seed} on {num_test} test episodes")
        report = create_report(
            model,
            references,
            closed_form_of(spec),
            datamodule.test_batches,
            spec.mean_function(),
        )
        prefix = "" if settings.seeds == 1 else f"seed_{seed}/"
        all_metrics[seed] = report.as_dict() | {
            "eval_seed": EVAL_SEED,
            "first_step_within_1_percent": next(
                (step for name, step in first_steps.items() if name.startswith(prefix)), None
            ),
            "steps": trainer.global_step,
        }
        directory = run_dir / prefix
        directory.mkdir(exist_ok=True)
        of_seed = settings.model_copy(update={"seed": seed})
        card = card_of(of_seed, spec, report, trainer, module, model, resumable.wall_time_s)
        cards[f"{prefix}card"] = save_checkpoint(directory / "checkpoint", model, card)
        write_figures(report, model, references["gradient_descent"], trainer, directory, prefix)
        if settings.seeds > 1:
            write_json(directory / METRICS, all_metrics[seed])
        reports[seed] = report
    if isinstance(module, LitReplicas):
        for seed in module.diverged:  # what an earlier end of the run has left of it
            shutil.rmtree(run_dir / f"seed_{seed}", ignore_errors=True)
        metrics = summarize(all_metrics, reports, module, trainer, num_test)
        means = {name: found["mean"] for name, found in metrics["metrics"].items()}
        values = {name: mean for name, mean in means.items() if mean is not None}
    else:
        metrics, report = all_metrics[settings.seed], reports[settings.seed]
        values = report.model_numbers()
    board.finish(trainer, values, cards)
    write_json(run_dir / METRICS, metrics)  # the last that is written: it says that the run is over

    if isinstance(module, LitReplicas):
        console.print(seeds_table(metrics, module.diverged))
    else:
        for table in report_tables(report):
            console.print(table)
    checkpoint = run_dir / ("checkpoint" if settings.seeds == 1 else "seed_*/checkpoint")
    # A path is no markup.
    console.out(f"checkpoint  {checkpoint}", highlight=False)
    console.out(f"metrics     {run_dir / METRICS}", highlight=False)
    console.out(f"curves      tensorboard --logdir {typed_path(run_dir.parent)}", highlight=False)
    return metrics, objects


def parts_of(
    settings: RunSettings,
    spec: EpisodeSpec,
    model_args: dict[str, Any],
    reference: Predictor,
    num_test: int,
) -> tuple[LitPredictor, EpisodeDataModule]:
    """The module and the episodes of one seed, or of several side by side."""
    arguments: dict[str, Any] = {
        "model": model_args["name"],
        "model_args": {name: value for name, value in model_args.items() if name != "name"},
        "optim": settings.optim.model_dump(),
        "log_every_n_steps": settings.trainer.log_every_n_steps,
        "positions": settings.positions,
        "reference": reference,
        "loss": "mse" if spec.output == "value" else "cross_entropy",
    }
    sizes = settings.batch_size, settings.eval_episodes
    if settings.seeds > 1:
        seeds = list(range(settings.seed, settings.seed + settings.seeds))
        datamodule = ReplicaDataModule(spec, seeds, *sizes, num_test=num_test)
        return LitReplicas(seeds=seeds, **arguments), datamodule
    module = LitPredictor(seed=settings.seed, on_nonfinite=settings.on_nonfinite, **arguments)
    return module, EpisodeDataModule(spec, settings.seed, *sizes, num_test=num_test)


def callbacks_of(settings: RunSettings) -> list[pl.Callback]:
    """The callbacks; with several seeds one TimeToSolution for each, and no monitor of a model."""
    callbacks = [
        build(f"callbacks.{name}", part, pl.Callback)
        for name, part in settings.callbacks.items()
        if part
    ]
    if settings.seeds == 1:
        return callbacks
    found: list[pl.Callback] = []
    for callback in callbacks:
        if isinstance(callback, TimeToSolution):
            found += [
                TimeToSolution(f"seed_{seed}/{callback.metric}", callback.threshold)
                for seed in range(settings.seed, settings.seed + settings.seeds)
            ]
        elif not isinstance(callback, AlignmentMonitor | FigureMonitor | WeightMonitor):
            found.append(callback)
    return found


def objective_of(trainer: pl.Trainer, module: LitPredictor) -> float | None:
    """The validation error at the query that a search minimises; infinite if a seed diverged."""
    if isinstance(module, LitReplicas) and module.diverged:
        return math.inf
    error = trainer.callback_metrics.get(f"val/{module.error_name}_query")
    return None if error is None else error.item()


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def command(config: DictConfig) -> float | None:
    """What is done with the composed settings. What a user got wrong is one line, not a trace.

    Returns:
        The validation error at the query, for a sweeper that searches (on the first rank); infinite
        if one of several seeds diverged.
    """
    raise_on_signals()
    register_resolvers()
    hydra_config = HydraConfig.get()
    runtime: Any = OmegaConf.to_container(hydra_config.runtime, resolve=False)
    run_dir = Path(runtime["output_dir"])  # where Hydra put it; not resolved, it may have a ${

    def resume_hint() -> str:
        targets = targets_of(OmegaConf.to_container(config, resolve=True))
        return typed_resume(sys.argv[0], run_dir, sorted(targets - shipped_targets(CONFIGS)))

    typed = hydra_config.overrides.task
    multirun = hydra_config.mode == RunMode.MULTIRUN
    try:
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
            metrics, objects = train(config, run_dir, Console(quiet=rank_of_process() != 0))
        return objective_of(objects["trainer"], objects["module"]) if metrics else None
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
        text = explain(error) if isinstance(error, ValidationError) else str(error)
        if isinstance(error, OSError) and (run_dir / CONFIG).exists():  # most likely a full disk
            text += f"\nonce that is put right, go on with\n  {resume_hint()}"
        sys.exit(f"{type(error).__name__}: {text}\n(HYDRA_FULL_ERROR=1 shows where)")
    except RuntimeError as error:
        # gloo has no type of its own for a connection that broke or timed out
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
            raise
        sys.exit(
            f"rank {rank_of_process()} has lost another rank, which ended or hangs:\n{error}\n"
            f"go on with\n  {resume_hint()}"
        )


def main() -> None:
    """Reads the command line, to the exit of the process."""
    outlive_readers()
    raise_on_signals()
    try:
        sys.argv[1:] = quote_paths(sys.argv[1:], CONFIG)
        check_plugins(sys.argv[1:])
        check_resume(sys.argv[1:], CONFIG)
        check_sweep(sys.argv[1:], CONFIGS)
        command()
    except StoppedBySignal as stopped:  # before the run has begun
        sys.exit(128 + stopped.signum)
    except ValueError as error:
        sys.exit(f"ValueError: {error}")
