"""What is left of a run: the card of its model, figures, hyperparameters, a summary of seeds."""

import hashlib
import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning
import lightning.pytorch as pl
import torch

import zoo
from datamodules import EpisodeSpec
from datamodules.datamodule import EVAL_SEED
from zoo.analysis.construction import weights_beside_construction
from zoo.analysis.figures import learning_curve_figure, weights_figure
from zoo.evaluation.report import Report
from zoo.evaluation.seeds import first_step_over_seeds, numbers_of, summary_over_seeds
from zoo.files import ROOT, write_figure
from zoo.models.gd_ssm import GDSSM
from zoo.predictor import Predictor
from zoo.solvers.moment import GradientDescent
from zoo.training.callbacks.board import writers
from zoo.training.module import LitPredictor
from zoo.training.optim import OptimConfig
from zoo.training.replicas import LitReplicas
from zoo.training.run import RunSettings


def write_figures(
    report: Report,
    model: Predictor,
    reference: Predictor,
    trainer: pl.Trainer,
    run_dir: Path,
    prefix: str,
) -> None:
    """The figures of the end of a run, as files and, under a prefix, in TensorBoard."""
    figures = {"learning_curve": learning_curve_figure(report.curves, report.loss)}
    if isinstance(model, GDSSM) and isinstance(reference, GradientDescent):
        weights = weights_beside_construction(model, reference.step_size)
        figures["weights"] = weights_figure(weights)
    for name, figure in figures.items():
        write_figure(run_dir / "figures" / f"{name}.png", figure, dpi=150)
    tags = {"learning_curve": "test/learning_curve", "weights": "weights/beside_construction"}
    for writer in writers(trainer):
        for name, figure in figures.items():
            writer.add_figure(f"{prefix}{tags[name]}", figure, trainer.global_step)


def hyperparameters_of(
    settings: RunSettings, spec: EpisodeSpec, optim: OptimConfig
) -> dict[str, str | float]:
    """What runs are told apart by in TensorBoard's HParams, flat."""
    names = ("num_steps", "num_layers", "d_model")
    return {
        "architecture": settings.model["name"],
        **{name: settings.model[name] for name in names if name in settings.model},
        "family": spec.function.name,
        "inputs": spec.inputs.name,
        "d_x": spec.d_x,
        "d_y": spec.d_y,
        "num_context": spec.num_context,
        "noise": spec.noise,
        "positions": settings.positions,
        "lr": optim.lr,
        "weight_decay": optim.weight_decay,
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "seeds": settings.seeds,
    }


def card_of(
    settings: RunSettings,
    spec: EpisodeSpec,
    report: Report,
    trainer: pl.Trainer,
    module: LitPredictor,
    model: Predictor,
    wall_time_s: float,
) -> dict[str, Any]:
    """The fields of the card that do not follow from the weights; `wall_time_s` is of all seeds."""
    optim = dict(settings.optim)
    schedule = {name: optim.pop(name) for name in ("warmup_steps", "decay_fraction")}
    return {
        "name": f"{module.hparams['model']}.{settings.checkpoint_tag}",
        "architecture": module.hparams["model"],
        "model_args": module.hparams["model_args"],
        "token_layout": model.token_layout,
        "state_size": model.state_size(spec.num_context),
        "data": spec.model_dump(),
        "training": {
            "steps": trainer.global_step,
            "episodes": trainer.global_step * settings.batch_size,
            "batch_size": settings.batch_size,
            "optimizer": {"name": "AdamW", **optim},
            "schedule": {"name": "linear warm-up and decay", **schedule},
            "seed": settings.seed,
            "precision": str(trainer.precision),
            "devices": trainer.world_size,
            "wall_time_s": round(wall_time_s / settings.seeds, 3),
        },
        **measured_fields(report),
        "versions": {
            "icl-zoo": zoo.__version__,
            "torch": torch.__version__,
            "lightning": lightning.__version__,
        },
        "git_commit": git_commit(),
        "notes": ""
        if settings.seeds == 1
        else f"One of {settings.seeds} seeds trained side by side; wall_time_s is its share, the "
        f"seconds of all divided by {settings.seeds}.",
        "command": shlex.join(["python", *sys.argv]),
        "created": datetime.now(UTC),
        "license": "Apache-2.0",
        "paper": model.paper,
    }


def measured_fields(report: Report) -> dict[str, Any]:
    """The fields of a card that are measured."""
    measured = {"num_episodes": report.num_episodes, "eval_seed": EVAL_SEED}
    metrics = {n: m._asdict() | measured for n, m in report.model_metrics().items()}
    if report.first_tenth is not None:
        tenth = {"num_episodes": report.num_episodes // 10, "eval_seed": EVAL_SEED}
        name = f"test/{report.loss}_query_first_tenth"
        metrics[name] = report.first_tenth._asdict() | tenth
    return {
        "metrics": metrics,
        "reference_metrics": {
            name: loss._asdict() | measured
            for name, loss in report.at_query[report.loss].items()
            if name != "model"
        },
        "curves": report.as_dict()["curves"],
    }


def git_commit() -> str | None:
    """State of the code, None outside a git checkout.

    It is the commit, and `SHA-dirty-HASH` where files differ from it: 12 digits of the sha256 of
    what `git diff` says of them and of source files that git does not know.
    """
    try:
        commit = _git("rev-parse", "HEAD").decode().strip()
        changes = _git("diff", "HEAD", "--binary", "--no-ext-diff", "--no-color")
        options = ("--others", "--exclude-standard", "-z")
        for name in _git("ls-files", *options, "--", "*.py", "configs").split(b"\0"):
            if name:
                changes += name + b"\0" + (ROOT / os.fsdecode(name)).read_bytes()
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty-{hashlib.sha256(changes).hexdigest()[:12]}" if changes else commit


def _git(*arguments: str) -> bytes:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, check=True).stdout


def summarize(
    metrics: dict[int, dict[str, Any]],
    reports: dict[int, Report],
    module: LitReplicas,
    trainer: pl.Trainer,
    num_episodes: int,
) -> dict[str, Any]:
    """What all seeds reached, as plain data."""
    first_step = "first_step_within_1_percent"
    first_steps = {seed: found[first_step] for seed, found in metrics.items()}
    return {
        "seeds": module.seeds,
        "diverged": list(module.diverged),
        "diverged_causes": {str(seed): cause for seed, cause in module.diverged.items()},
        "steps": trainer.global_step,
        "num_episodes": num_episodes,
        "eval_seed": EVAL_SEED,
        first_step: first_step_over_seeds(first_steps),
        "metrics": summary_over_seeds({s: numbers_of(report) for s, report in reports.items()}),
    }
