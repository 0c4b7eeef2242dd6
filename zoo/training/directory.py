"""Run directories: where a run writes, and what it takes to go on with one."""

import io
import json
import os
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter

from zoo.errors import first_line
from zoo.files import write_json, write_text
from zoo.training.overrides import ABSENT, typed_override

CONFIG = "config.yaml"
COMMAND = "command.json"
METRICS = "metrics.json"
METRICS_BEFORE = "metrics_before.json"
FAILURE = "failure.txt"
# Of the states to go on from, and of the last of them in it.
STATES = "checkpoints"
LAST_STATE = "last.ckpt"
# Of a run's configuration, which may be somebody else's. Those of the shipped experiments have
# 1,800 bytes, 90 lines and 4 interpolations, which multiply as aliases do.
MAX_CONFIG_BYTES = 2**15
MAX_CONFIG_NODES, MAX_CONFIG_LEVELS, MAX_CONFIG_INTERPOLATIONS = 2_000, 20, 20
# Of this process alone: where it writes, and what it may build and read of what a run names.
NOT_OF_THE_RUN = {"resume", "run_dir", "allow_targets", "text"}


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


def save_config(config: DictConfig, directory: Path) -> None:
    """Writes the configuration into the run directory, whole or not at all.

    Where the directory is stays open, so that a run can be moved and resumed.
    """
    write_text(directory / CONFIG, OmegaConf.to_yaml(_without_place(config)))


def save_command(directory: Path, command: str, max_steps: int) -> None:
    """Notes what was typed to make a run of so many steps, for its card.

    A command that only goes on with the run is not noted: it changes nothing of what comes out. One
    that trains for longer is, after the first.
    """
    noted = _noted(directory)
    if not noted or max_steps > noted[-1][1]:
        write_json(directory / COMMAND, [*noted, (command, max_steps)])


def commands_of(directory: Path) -> list[str]:
    """What was typed to make a run, in the order; empty for runs of earlier versions.

    Raises:
        ValueError: If the file that says so cannot be read.
    """
    return [command for command, _ in _noted(directory)]


def _noted(directory: Path) -> list[tuple[str, int]]:
    path = directory / COMMAND
    if not path.exists():
        return []
    with path.open("rb") as file:
        content = file.read(MAX_CONFIG_BYTES + 1)
    try:
        _check_size(content)
        return TypeAdapter(list[tuple[str, int]]).validate_json(content)
    except ValueError as error:
        raise ValueError(f"{path}: {first_line(error)}") from None


def save_failure(directory: Path, cause: str) -> None:
    """Notes why a run cannot go on, for those who look at all runs."""
    write_text(directory / FAILURE, f"{cause}\n")


def read_failure(directory: Path) -> str | None:
    """Why a run cannot go on; None if nothing is known against it."""
    path = directory / FAILURE
    if not path.is_file():
        return None
    with path.open(errors="replace") as file:
        return file.read(MAX_CONFIG_BYTES).strip()


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
    if OmegaConf.select(config, "data.function.name") == "text":  # so does what text=FILE holds
        saved.data.function = OmegaConf.to_container(config.data.function, resolve=True)
    with open_dict(saved):
        saved.pop("allow_targets", None)  # whoever resumes the run says that
        saved.pop("text", None)
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
