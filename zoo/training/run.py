"""Run directories: where a run writes, and what it takes to go on with one."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

CONFIG = "config.yaml"


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


def config_of_run(config: DictConfig, overrides: list[str]) -> DictConfig:
    """The configuration to run with: the given one, or that of the run to be resumed.

    Args:
        config: As composed from the command line.
        overrides: The arguments of the command line.

    Raises:
        ValueError: If `resume` names no run or comes with an override that conflicts with it, or if
            a new run would write where another one did.
    """
    path = Path(config.run_dir) / CONFIG
    if config.resume is None:
        if path.exists() and OmegaConf.load(path) != _without_place(config):
            raise ValueError(
                f"{config.run_dir} holds another run: resume={config.run_dir} goes on with it, "
                "hydra.run.dir=DIRECTORY starts this one elsewhere"
            )
        return config
    if not path.is_file():
        if not any(path.parent.iterdir()):
            path.parent.rmdir()  # there was none of this name until Hydra made it
        raise ValueError(f"resume: {config.resume} is not a run directory, it has no {CONFIG}")
    saved = OmegaConf.load(path)
    assert isinstance(saved, DictConfig)
    for override in overrides:
        key = override.lstrip("+~").split("=", 1)[0].split("@", 1)[0].replace("/", ".")
        if key in ("resume", "run_dir") or key.startswith("hydra."):
            continue
        given, used = (OmegaConf.select(source, key) for source in (config, saved))
        if key == "max_steps" and given >= used:
            saved.max_steps = given
        elif used is None or _plain(given) != _plain(used):
            raise ValueError(
                f"resume: {override!r} conflicts with the run's own configuration ({path}: "
                f"{key} = {_plain(used)}); only max_steps may change, and only grow"
            )
    saved.resume, saved.run_dir = config.resume, config.run_dir
    return saved


def save_config(config: DictConfig, directory: Path) -> None:
    """Writes the configuration into the run directory, whole or not at all.

    Where the directory is stays open, so that a run can be moved and resumed.
    """
    write_text(directory / CONFIG, OmegaConf.to_yaml(_without_place(config)))


def write_json(path: Path, content: Any) -> None:
    """Writes plain data as JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text, whole or not at all."""
    partial = path.with_name(f"{path.name}.writing")
    try:
        partial.write_text(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _without_place(config: DictConfig) -> DictConfig:
    saved = config.copy()
    saved.checkpoint_tag = config.checkpoint_tag  # resolved, it hangs on the command line
    saved.resume = saved.run_dir = None
    return saved


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
