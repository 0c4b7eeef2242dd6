"""Run directories: where a run writes, and what it takes to go on with one."""

import io
import json
import os
from collections.abc import Collection
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from zoo.files import write_text
from zoo.training.optim import OptimConfig
from zoo.training.overrides import ABSENT, typed_override

CONFIG = "config.yaml"
METRICS = "metrics.json"
METRICS_BEFORE = "metrics_before.json"
# Of a run's configuration, which may be somebody else's. Those of the shipped experiments have
# 1,800 bytes, 90 lines and 4 interpolations, which multiply as aliases do.
MAX_CONFIG_BYTES = 2**15
MAX_CONFIG_NODES, MAX_CONFIG_LEVELS, MAX_CONFIG_INTERPOLATIONS = 2_000, 20, 20
# Of this process alone: where it writes, and what it may build of a run's own configuration.
NOT_OF_THE_RUN = {"resume", "run_dir", "allow_targets"}
PLUGINS = {
    "launcher=joblib": "hydra-joblib-launcher",
    "launcher=submitit": "hydra-submitit-launcher",
    "hparams_search=optuna": "hydra-optuna-sweeper",
}


def run_directory(resume: str | None) -> str:
    """Where this process writes: the directory to resume, else a new one under `runs`.

    A job of several processes is named by its SLURM or torchrun id, so that all of them agree; a
    single process by the time, with microseconds. A torchrun job without an id is named by the
    process that all its ranks on a machine have as parent.
    """
    if resume is not None:
        return resume
    if "SLURM_JOB_ID" in os.environ:
        return f"runs/slurm-{os.environ['SLURM_JOB_ID']}"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        job = os.environ["TORCHELASTIC_RUN_ID"]
        return f"runs/torchrun-{os.getppid() if job == 'none' else job}"
    return f"runs/{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"


class TrainerSettings(BaseModel):
    """What train.py reads of the trainer's settings; Lightning checks the rest."""

    model_config = ConfigDict(extra="allow", strict=True)

    accumulate_grad_batches: PositiveInt = 1
    log_every_n_steps: PositiveInt = 50


def num_test_of(eval_episodes: int, heavy_tailed: bool) -> int:
    """Test episodes where nothing is said of them: ten times as many for heavy tails."""
    return 10 * eval_episodes if heavy_tailed else eval_episodes


class RunSettings(BaseModel):
    """The settings in `configs/train.yaml`, where each is explained, as plain data."""

    model_config = ConfigDict(extra="forbid", strict=True)

    resume: str | None
    allow_targets: list[str] = []
    run_dir: str
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    seeds: PositiveInt = 1
    max_steps: PositiveInt
    batch_size: PositiveInt
    positions: Literal["last", "all"]
    on_nonfinite: Literal["stop", "skip"] = "stop"
    val_every: PositiveInt
    eval_episodes: Annotated[int, Field(ge=2)]
    test_episodes: Annotated[int, Field(ge=2)] | None = None
    checkpoint_every: PositiveInt
    checkpoint_tag: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    model: dict[str, Any]
    data: dict[str, Any]
    optim: OptimConfig
    trainer: TrainerSettings
    callbacks: dict[str, dict[str, Any] | None] = {}
    logger: dict[str, dict[str, Any] | None] = {}

    @classmethod
    def of(cls, config: DictConfig) -> "RunSettings":
        """Resolves and checks a composed configuration.

        Raises:
            ValueError: If a setting is missing, unknown or has a wrong value.
        """
        plain: Any = OmegaConf.to_container(config, resolve=True)
        settings = cls(**plain)
        missing = sorted(OptimConfig.model_fields.keys() - settings.optim.model_fields_set)
        if missing:  # nobody asked for its default
            raise ValueError(f"{', '.join(f'optim.{name}' for name in missing)} is missing")
        if "name" not in settings.model:
            raise ValueError("model.name is missing")
        return settings

    def num_test(self, heavy_tailed: bool) -> int:
        """Episodes in the test set of a model whose mean error has such a tail or not."""
        return self.test_episodes or num_test_of(self.eval_episodes, heavy_tailed)


def config_of_run(config: DictConfig, typed: Collection[str]) -> DictConfig:
    """The configuration to run with: the given one, or that of the run to be resumed.

    Args:
        config: As composed from the command line.
        typed: Dotted names of the settings that the command line speaks for; each stands for all
            below it, and one that the configuration does not have for the whole.

    Raises:
        ValueError: If `resume` names no run or comes with an override that conflicts with it, or if
            a new run would write where another one did.
    """
    path = Path(config.run_dir) / CONFIG
    if config.resume is None:
        if path.exists() and read_config(path) != _without_place(config):
            raise ValueError(
                f"{config.run_dir} holds another run: {typed_override('resume', config.run_dir)} "
                "goes on with it, hydra.run.dir=DIRECTORY starts this one elsewhere"
            )
        return config
    if Path(config.resume).resolve() != Path(config.run_dir).resolve():
        raise ValueError(
            f"resume: {config.resume} is also where the run goes on, got {config.run_dir} for that"
        )
    saved = read_config(path)
    own: Any = OmegaConf.to_container(config, resolve=False)
    for key in NOT_OF_THE_RUN:
        saved[key] = own.get(key)
    given, used = _leaves(config), _leaves(saved)
    for key in sorted(_differing(given, used)):
        if not any(_speaks_for(name, key, config, saved) for name in typed):
            continue
        one, other = given.get(key, ABSENT), used.get(key, ABSENT)
        if key == "max_steps" and isinstance(one, int) and isinstance(other, int) and one > other:
            saved.max_steps = one
        else:
            raise ValueError(
                f"resume: {key} = {one} conflicts with {key} = {other}, which the run has in "
                f"{path}; only max_steps may change, and only grow"
            )
    return saved


def check_world_size(world_size: int, multirun: bool) -> None:
    """Raises ValueError if the runs of a multirun would have several processes each."""
    if multirun and world_size > 1:
        raise ValueError(
            f"a multirun (-m) trains every run in one process, this trainer has {world_size}. "
            "Either trainer=cpu, trainer=gpu or trainer.devices=1, with launcher=joblib or "
            "launcher=submitit for runs side by side; or seeds=8 without -m, which trains eight "
            "seeds in one process on one device; or one command for each run, such as "
            "torchrun --nproc-per-node=2 train.py trainer=ddp seed=0"
        )


def check_devices(trainer: TrainerSettings) -> None:
    """Raises ValueError if the trainer is to use GPUs and there are none."""
    accelerator = (trainer.model_extra or {}).get("accelerator")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"trainer.accelerator={accelerator} needs a CUDA GPU, and this machine shows none; "
            "trainer=cpu trains on the CPU, trainer=ddp_cpu in two processes on it"
        )


def check_seeds(settings: "RunSettings", world_size: int, precision: str) -> None:
    """Raises ValueError if several seeds come with what only a single one can have."""
    if settings.seeds == 1:
        return
    if settings.seed + settings.seeds > 2**63:
        raise ValueError(f"seed + seeds must be at most 2^63, got {settings.seed + settings.seeds}")
    accumulated = settings.trainer.accumulate_grad_batches
    for name, given, allowed in [
        ("trainer: the number of devices", world_size, 1),
        ("trainer.accumulate_grad_batches", accumulated, 1),
        ("trainer.precision", precision, "32-true"),
        ("on_nonfinite", settings.on_nonfinite, "stop"),
    ]:
        if given != allowed:
            raise ValueError(
                f"{name} must be {allowed} with several seeds, got {given} with "
                f"seeds={settings.seeds}; python train.py -m seed=0,1,2 trains runs by themselves"
            )


def check_plugins(arguments: list[str]) -> None:
    """Raises ValueError if an argument asks for a launcher or sweeper that is not installed.

    To be called before Hydra, which would only say that it does not find a file.
    """
    for argument in arguments:
        if argument in PLUGINS:
            try:
                version(PLUGINS[argument])
            except PackageNotFoundError:
                raise ValueError(
                    f"{argument} needs {PLUGINS[argument]}: pip install -e '.[sweep]'"
                ) from None


def save_config(config: DictConfig, directory: Path) -> None:
    """Writes the configuration into the run directory, whole or not at all.

    Where the directory is stays open, so that a run can be moved and resumed.
    """
    write_text(directory / CONFIG, OmegaConf.to_yaml(_without_place(config)))


def read_config(path: Path) -> DictConfig:
    """Reads the configuration of a run, as `save_config` wrote it.

    Raises:
        ValueError: If it cannot be read, or could take for ever: it has aliases, or more than any
            configuration of ours.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
        _check_size(content)
        config = OmegaConf.load(io.StringIO(content.decode()))
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, DictConfig):
        raise ValueError(f"{path} is not the configuration of a run")
    return config


def set_metrics_aside(run_dir: Path, max_steps: int) -> None:
    """Renames `metrics.json` of a run that is to go on, also that of each seed.

    That it is there says that a run is over, after as many steps as it was asked for. The numbers
    of the earlier end stay, in `metrics_before.json`.
    """
    for path in (run_dir / METRICS, *run_dir.glob(f"seed_*/{METRICS}")):
        if path.exists() and _steps_of(path) != max_steps:
            path.replace(path.with_name(METRICS_BEFORE))


def _steps_of(path: Path) -> int | None:
    try:
        steps: int = json.loads(path.read_bytes())["steps"]
    except (ValueError, KeyError, TypeError, RecursionError):  # not ours, or damaged
        return None
    return steps


def _without_place(config: DictConfig) -> DictConfig:
    saved = config.copy()
    saved.checkpoint_tag = config.checkpoint_tag  # resolved, it hangs on the command line
    saved.resume = saved.run_dir = None
    with open_dict(saved):
        saved.pop("allow_targets", None)  # whoever resumes the run says that
    return saved


def _check_size(content: bytes) -> None:
    if len(content) > MAX_CONFIG_BYTES:
        raise ValueError(f"it has more than {MAX_CONFIG_BYTES} bytes")
    if content.count(b"${") > MAX_CONFIG_INTERPOLATIONS:
        raise ValueError(f"it has more than {MAX_CONFIG_INTERPOLATIONS} interpolations")
    num_nodes = level = 0
    for event in yaml.parse(content):
        num_nodes += isinstance(event, yaml.NodeEvent)
        level += isinstance(event, yaml.CollectionStartEvent)
        level -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it has an alias, *{event.anchor}")
        if num_nodes > MAX_CONFIG_NODES or level > MAX_CONFIG_LEVELS:
            raise ValueError(
                f"it has more than {MAX_CONFIG_NODES} values or {MAX_CONFIG_LEVELS} levels"
            )


def _speaks_for(name: str, key: str, *configs: DictConfig) -> bool:
    """Whether a typed name stands for a setting; that of an experiment stands for all of them."""
    if not any(name.partition(".")[0] in config for config in configs):
        return True
    return f"{key}.".startswith(f"{name}.")


def _leaves(config: DictConfig) -> dict[str, Any]:
    """The values of a configuration by their dotted names."""
    leaves: dict[str, Any] = {}

    def collect(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for name, part in value.items():
                collect(f"{prefix}.{name}" if prefix else str(name), part)
        else:
            leaves[prefix] = value

    collect("", OmegaConf.to_container(config, resolve=True))
    return leaves


def _differing(one: dict[str, Any], two: dict[str, Any]) -> set[str]:
    return {k for k in one.keys() | two.keys() if one.get(k, ABSENT) != two.get(k, ABSENT)}
