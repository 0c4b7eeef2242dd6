"""What a run leaves in its directory and in TensorBoard at its end."""

import shutil
from collections.abc import Mapping
from typing import Any

from zoo.analysis.construction import weights_beside_construction
from zoo.analysis.figures import (
    learning_curve_figure,
    thumbnail_curve_figure,
    thumbnail_weights_figure,
    weights_figure,
)
from zoo.files import write_figure, write_json
from zoo.hub.io import save_checkpoint
from zoo.models.gd_ssm import GDSSM
from zoo.solvers.moment import GradientDescent
from zoo.training.callbacks.board import writers
from zoo.training.card import card_of
from zoo.training.directory import METRICS
from zoo.training.measure import Outcome, summary_of
from zoo.training.run import Run


def write(run: Run, outcomes: Mapping[int, Outcome]) -> dict[str, Any]:
    """Writes all that is left of a run: checkpoints, figures, the end of the logs, metrics.

    Returns:
        The content of `metrics.json` of the run: that of its only seed, or a summary over several.
    """
    cards = {}
    for seed, outcome in outcomes.items():
        directory = run.directory_of(seed)
        directory.mkdir(exist_ok=True)
        card = save_checkpoint(directory / "checkpoint", outcome.model, card_of(run, seed, outcome))
        cards[run.prefix(seed).rstrip("/")] = card
        write_figures(run, seed, outcome)
    if run.settings.seeds > 1:
        for seed in run.module.diverged:  # what an earlier end of the run has left of it
            shutil.rmtree(run.directory_of(seed), ignore_errors=True)
    summary = summary_of(run, outcomes)
    means = {name: found["mean"] for name, found in summary["metrics"].items()}
    numbers = {name: mean for name, mean in means.items() if mean is not None}
    run.board.finish(run.trainer, numbers, cards)
    metrics = {run.directory_of(seed): outcome.metrics for seed, outcome in outcomes.items()}
    # That of the run comes last: it says that the run is over.
    of_run = metrics.setdefault(run.directory, summary)
    for directory, content in metrics.items():
        write_json(directory / METRICS, content)
    return of_run


def write_figures(run: Run, seed: int, outcome: Outcome) -> None:
    """The figures of the end of a run, as files and in TensorBoard."""
    report, model, reference = outcome.report, outcome.model, next(iter(run.references.values()))
    curves = report.curves, report.loss, run.settings.model.name
    figures = {"learning_curve": learning_curve_figure(*curves)}
    thumbnails = {"test/learning_curve": thumbnail_curve_figure(*curves)}
    if isinstance(model, GDSSM) and isinstance(reference, GradientDescent):
        weights = weights_beside_construction(model, reference.step_size)
        figures["weights"] = weights_figure(weights)
        thumbnails["weights/beside_construction"] = thumbnail_weights_figure(weights)
    for name, figure in figures.items():
        write_figure(run.directory_of(seed) / "figures" / f"{name}.png", figure, dpi=150)
    for writer in writers(run.trainer, run.prefix(seed).rstrip("/")):
        for tag, figure in thumbnails.items():
            writer.add_figure(tag, figure, run.trainer.global_step)
