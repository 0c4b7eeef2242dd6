"""The card of a trained model, as far as it does not follow from the weights."""

import hashlib
import math
import os
import subprocess
from datetime import UTC, datetime
from typing import Any

import lightning
import torch

import zoo
from datamodules.stream import EVAL_SEED
from zoo.evaluation.report import Report
from zoo.files import ROOT
from zoo.training.directory import commands_of
from zoo.training.measure import CONVERGENCE, Outcome
from zoo.training.run import Run
from zoo.training.settings import RunSettings

# Of a curve in a card, which may not grow beyond what is read of one.
MOST_POINTS = 300
# Significant ones of a point of a curve, whose interval is some percent.
DIGITS = 6


def card_of(run: Run, seed: int, outcome: Outcome) -> dict[str, Any]:
    """The fields of the card of one seed's model that do not follow from its weights."""
    settings, model = run.settings, outcome.model
    steps = run.trainer.global_step
    optim = settings.optim.model_dump()
    choice = run.module.choice
    optim["lr"], optim["ssm_lr"] = choice.rate
    if choice.errors:
        optim["rates"] = choice.errors
    num_replicas = settings.num_replicas
    schedule = {name: optim.pop(name) for name in ("schedule", "warmup_steps", "decay_fraction")}
    schedule["decay_fraction"] = settings.optim.decay_share
    if CONVERGENCE in outcome.metrics:
        schedule[CONVERGENCE] = outcome.metrics[CONVERGENCE]
    return {
        "name": f"{settings.model.name}.{settings.checkpoint_tag}",
        "architecture": settings.model.name,
        "model_args": settings.model.arguments,
        "token_layout": model.token_layout,
        "state_size": model.state_size(settings.data.num_context),
        "data": settings.data.model_dump(),
        "training": {
            "steps": steps,
            "episodes": steps * settings.batch_size,
            "batch_size": settings.batch_size,
            "positions": settings.positions,
            "optimizer": {"name": "AdamW", **optim},
            "schedule": {"name": "linear warm-up and decay", **schedule},
            "seed": seed,
            "num_seeds": settings.seeds,
            "precision": str(run.trainer.precision),
            "devices": run.trainer.world_size,
            "wall_time_s": round(run.resumable.wall_time_s / num_replicas, 3),
        },
        **measured_fields(outcome.report),
        "versions": {
            "icl-zoo": zoo.__version__,
            "torch": torch.__version__,
            "lightning": lightning.__version__,
        },
        "git_commit": git_commit(),
        "notes": "" if num_replicas == 1 else _side_by_side(settings),
        "command": " && ".join(commands_of(run.directory)),
        "created": datetime.now(UTC),
        "license": "Apache-2.0",
        "paper": model.paper,
    }


def _side_by_side(settings: RunSettings) -> str:
    """What a card says of a model that was trained beside others."""
    num_rates, num_seeds = len(settings.optim.rates), settings.seeds
    counts = {"rates": num_rates, "seeds": num_seeds}
    whole = " x ".join(f"{number} {what}" for what, number in counts.items() if number > 1)
    return (
        f"One of {whole} trained side by side; wall_time_s is its share, the seconds of all "
        f"divided by {num_rates * num_seeds}."
    )


def measured_fields(report: Report) -> dict[str, Any]:
    """The fields of a card that are measured."""
    measured = {"num_episodes": report.num_episodes, "eval_seed": EVAL_SEED}
    metrics = {n: m._asdict() | measured for n, m in report.model_metrics().items()}
    if report.first_tenth is not None:
        tenth = {"num_episodes": report.num_episodes // 10, "eval_seed": EVAL_SEED}
        name = f"test/{report.loss}_{report.place}_first_tenth"
        metrics[name] = report.first_tenth._asdict() | tenth
    return {
        "metrics": metrics,
        "reference_metrics": {
            name: loss._asdict() | measured
            for name, loss in report.compared[report.loss].items()
            if name != "model"
        },
        "curves": {name: _thinned(all_) for name, all_ in report.as_dict()["curves"].items()},
    }


def _thinned(curve: list[Any]) -> list[Any]:
    """A curve with at most `MOST_POINTS` points or one more, to `DIGITS`; the others are None."""
    every = math.ceil(len(curve) / MOST_POINTS)
    last = len(curve) - 1
    return [
        _rounded(point) if i % every == 0 or i == last else None for i, point in enumerate(curve)
    ]


def _rounded(point: dict[str, float | None] | None) -> dict[str, float | None] | None:
    """A point of a curve, to `DIGITS` significant digits."""
    if point is None:
        return None
    return {
        name: None if value is None else float(f"{value:.{DIGITS}g}")
        for name, value in point.items()
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
