"""A run: all that takes part in it, put together from its settings, and its training."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from datamodules.datamodule import EpisodeDataModule, EpisodeSets, ReplicaDataModule
from datamodules.text import open_text
from zoo.files import CONFIGS, remove_half_written
from zoo.predictor import Predictor
from zoo.references import references_of, scoring_of
from zoo.threads import threads_of
from zoo.training.base import EpisodeModule, Loss, NonFiniteError
from zoo.training.callbacks import (
    Board,
    Convergence,
    ReferenceMonitor,
    Resumable,
    Threads,
    TimeToSolution,
)
from zoo.training.callbacks.board import hyperparameters_of
from zoo.training.checkpointing import AtomicCheckpointIO, check_state
from zoo.training.directory import (
    FAILURE,
    STATES,
    save_command,
    save_config,
    save_failure,
    set_metrics_aside,
)
from zoo.training.module import LitPredictor
from zoo.training.options import TrainerSettings
from zoo.training.profiler import NoProfiler
from zoo.training.replicas import LitReplicas
from zoo.training.settings import RunSettings
from zoo.training.targets import build, check_targets, shipped_targets
from zoo.training.validation import validation_name

Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """A run before, in and after its training.

    Attributes:
        config: As composed, to be written beside what the run leaves.
        settings: What it says.
        directory: Where everything is written.
        command: What is typed to make it.
        references: The exact algorithms that the model is compared with, by name.
        module: What is trained.
        datamodule: Its episodes.
        trainer: With all callbacks and loggers.
        resumable: The callback that saves.
        board: The callback of HParams.
    """

    config: DictConfig
    settings: RunSettings
    directory: Path
    command: str
    references: dict[str, Predictor]
    module: EpisodeModule
    datamodule: EpisodeSets
    trainer: pl.Trainer
    resumable: Resumable
    board: Board

    def prefix(self, seed: int | str) -> str:
        """Of the names of what belongs to one seed, `*` for all: nothing where it has no other."""
        return "" if self.settings.seeds == 1 else f"seed_{seed}/"

    def directory_of(self, seed: int) -> Path:
        """Where a seed's part is written: in the directory of the run where it has no other."""
        return self.directory / self.prefix(seed)


def assemble(config: DictConfig, run_dir: Path, command: str, say: Say) -> Run:
    """Puts a run together; nothing is written.

    Args:
        config: As composed from `configs/train.yaml`.
        run_dir: Where everything will be written; may hold an earlier part of the same run.
        command: What is typed to make it, for its card.
        say: What is done where that may take long.

    Raises:
        ValueError: If a setting is wrong, or two do not go together.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True)
    settings = RunSettings.of(plain)
    if settings.resume is not None:  # what the run says, which may be somebody else's
        shipped = shipped_targets(CONFIGS)
        check_targets(settings.model_dump(), shipped.union(settings.allow_targets))
    if settings.text is not None:
        open_text(settings.text)
    check_devices(settings.trainer)
    with torch.random.fork_rng(devices=[]):
        model = settings.model.create()  # refuses wrong arguments before all that takes long
    callbacks = callbacks_of(settings)
    module, datamodule = parts_of(settings, settings.num_test(model.heavy_tailed))
    module.check_model(model)
    resumable = Resumable(run_dir / STATES, settings.checkpoint_every)
    board = Board(hyperparameters_of(settings))
    monitor = ReferenceMonitor(shared=run_dir.parent / "algorithms" if in_multirun() else None)
    callbacks += [monitor, board, resumable, Threads(threads_of(*size_of(settings, model)), say)]
    if settings.optim.schedule == "constant_then_decay":
        metric = f"val/{module.error_name}_{'query' if settings.positions == 'last' else 'all'}"
        of_all = settings.optim, settings.max_steps
        callbacks += [Convergence(f"{p}{metric}", *of_all) for p in settings.log_prefixes]
    trainer = trainer_of(settings, run_dir, callbacks)
    check_world_size(trainer.world_size)
    module.check_trainer(trainer)
    datamodule.trainer = trainer
    datamodule.setup("fit")  # refuses a batch that does not divide
    say("fitting the algorithms that the model is compared with")
    references = monitor.references = references_of(settings.data, settings.model.arguments)
    name, reference = next(iter(references.items()))
    module.compare_with(reference, name)
    return Run(
        config,
        settings,
        run_dir,
        command,
        references,
        module,
        datamodule,
        trainer,
        resumable,
        board,
    )


def fit(run: Run) -> dict[int, Predictor]:
    """Trains, from the last checkpoint in the directory if there is one.

    Returns:
        The trained models by their seeds, those that did not diverge.

    Raises:
        ValueError: If that checkpoint is none of this run.
        NonFiniteError: If a loss or gradient was not finite and the run cannot go on.
        StoppedBySignal: If a signal asked for it; the state is saved then.
    """
    last = run.resumable.path if run.resumable.path.exists() else None
    if last is not None:
        check_state(last, run.trainer, run.module)
    if run.trainer.is_global_zero:
        run.directory.mkdir(parents=True, exist_ok=True)
        remove_half_written(run.directory)
        set_metrics_aside(run.directory, run.settings.max_steps)
        save_config(run.config, run.directory)
        save_command(run.directory, run.command, run.settings.max_steps)
        (run.directory / FAILURE).unlink(missing_ok=True)
    try:
        run.trainer.fit(run.module, run.datamodule, ckpt_path=last)
        return run.module.whole_models()
    except NonFiniteError as error:
        if run.trainer.is_global_zero:
            save_failure(run.directory, str(error))
        raise


def size_of(settings: RunSettings, model: Predictor) -> tuple[float, int]:
    """How much of an optimizer step is computed at a time.

    Batches that are accumulated, and replicas in turn, come one by one.

    Returns:
        About how many multiplications and additions: 6 for each parameter and pair, 2 forward and 4
        backward (tokens may be twice as many as pairs, and a recurrence has more). And episodes.
    """
    episodes = settings.batch_size // settings.trainer.accumulate_grad_batches
    if "cpu" not in model.replicas_in_turn_on:
        episodes *= settings.num_replicas
    pairs = episodes * (settings.data.num_context + 1)
    return 6.0 * pairs * sum(parameter.numel() for parameter in model.parameters()), episodes


def parts_of(settings: RunSettings, num_test: int) -> tuple[EpisodeModule, EpisodeSets]:
    """What is trained and its episodes: of one seed, or of several side by side."""
    spec, seeds, scoring = settings.data, settings.all_seeds, scoring_of(settings.data)
    sizes = settings.batch_size, settings.eval_episodes
    model = settings.model, settings.optim
    positions = settings.positions
    loss: Loss = "mse" if spec.output == "value" else "cross_entropy"
    step = settings.trainer.step
    if settings.num_replicas > 1:
        replicas = LitReplicas(*model, seeds, positions, loss, step=step, scoring=scoring)
        seeds_of_replicas = [seed for _, seed in replicas.replicas]
        return replicas, ReplicaDataModule(spec, seeds_of_replicas, *sizes, num_test=num_test)
    on_nonfinite = settings.on_nonfinite
    module = LitPredictor(
        *model, seeds[0], positions, loss, None, on_nonfinite, step=step, scoring=scoring
    )
    return module, EpisodeDataModule(spec, seeds[0], *sizes, num_test=num_test)


def callbacks_of(settings: RunSettings) -> list[pl.Callback]:
    """The callbacks that the settings name, with a TimeToSolution for each replica."""
    callbacks: list[pl.Callback] = []
    at_all = settings.positions == "all"
    for name, part in settings.callbacks.items():
        if not part:
            continue
        callback = build(f"callbacks.{name}", part, pl.Callback)
        if isinstance(callback, TimeToSolution):
            metric = callback.metric
            if scoring_of(settings.data).labels_hidden:  # nothing is divided by gradient descent
                metric = validation_name("accuracy", "all" if at_all else "query")
            for prefix in settings.log_prefixes:
                of_replica = copy.copy(callback)
                of_replica.metric = f"{prefix}{metric}"
                callbacks.append(of_replica)
        else:
            callbacks.append(callback)
    return callbacks


def trainer_of(settings: RunSettings, run_dir: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
    """The trainer that the settings describe.

    Raises:
        ValueError: If they set what follows from other settings.
    """
    own = {
        "max_steps": settings.max_steps,
        "val_check_interval": settings.val_every * settings.trainer.accumulate_grad_batches,
        "callbacks": callbacks,
        "enable_progress_bar": any(isinstance(c, pl.callbacks.ProgressBar) for c in callbacks),
        "logger": [
            build(f"logger.{name}", part, Logger)  # type: ignore[type-abstract]
            for name, part in settings.logger.items()
            if part
        ],
        "plugins": [AtomicCheckpointIO()],
        "default_root_dir": run_dir,
    }
    given = settings.trainer.model_dump(exclude={"step"})
    if double := sorted(own.keys() & given.keys()):
        raise ValueError(f"trainer.{double[0]} cannot be set, train.py gives it to the trainer")
    return build("trainer", {"profiler": NoProfiler()} | given | own, pl.Trainer)


def check_devices(trainer: TrainerSettings) -> None:
    """Raises ValueError if the trainer needs a GPU and there is none."""
    accelerator = (trainer.model_extra or {}).get("accelerator")
    if trainer.precision == "16-mixed" and not (accelerator != "cpu" and torch.cuda.is_available()):
        raise ValueError(
            "trainer.precision=16-mixed needs a GPU; on a CPU trainer.precision=bf16-mixed "
            "computes with 16 bits, and 32-true is the default"
        )
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"trainer.accelerator={accelerator} needs a CUDA GPU, and this machine shows none; "
            "trainer=cpu trains on the CPU, trainer=ddp_cpu in two processes on it"
        )


def in_multirun() -> bool:
    """Whether this run is one of several that a single command has started."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def check_world_size(world_size: int) -> None:
    """Raises ValueError if the runs of a multirun would have several processes each."""
    if in_multirun() and world_size > 1:
        raise ValueError(
            f"a multirun (-m) trains every run in one process, this trainer has {world_size}. "
            "Either trainer=cpu, trainer=gpu or trainer.devices=1, with launcher=joblib or "
            "launcher=submitit for runs side by side; or seeds=8 without -m, which trains eight "
            "seeds in one process on one device; or one command for each run, such as "
            "torchrun --nproc-per-node=2 train.py trainer=ddp seed=0"
        )
