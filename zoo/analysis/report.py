"""What is known of a model at the end of its training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from zoo.analysis.compare import Batch, losses, scored_columns
from zoo.analysis.construction import weights_summary
from zoo.analysis.figures import LOSS_LABELS
from zoo.metrics.alignment import alignment, query_response
from zoo.metrics.classification import expected_calibration_error
from zoo.metrics.errors import (
    Interval,
    interval_or_none,
    mean_interval,
    mean_of_scored,
    ratio_interval,
)
from zoo.models.gd_ssm import GDSSM
from zoo.predictor import Predictor
from zoo.solvers.moment import GradientDescent

REFERENCE = "gradient_descent"
# A loss below this fraction of the largest is rounding: no ratio to it means anything.
NEGLIGIBLE = 1e-6


@dataclass(frozen=True)
class Report:
    """The numbers at the end of a run; every one on the same test episodes.

    Attributes:
        num_episodes: How many episodes.
        loss: What was trained on: `half_mse` or `cross_entropy`.
        at_query: By loss and predictor.
        over_all: The same over all scored positions.
        curves: The loss after 0, 1, ... examples, by predictor; None where no episode is scored.
        ratio: Paired ratio of the model's loss at the query to that of each reference which is not
            exact to rounding.
        calibration_error: Expected calibration error of the model's logits, where it has any.
        closed_form: Expected 0.5*MSE at the query of the best gradient step, where it is known;
            under drift of the one that forgets.
        alignment: Of the model with gradient descent, by name.
        num_zero_norm: Episodes without a cosine.
        weights: Cosines of trained and constructed weights and what else is known of them.
    """

    num_episodes: int
    loss: str
    at_query: dict[str, dict[str, Interval]]
    over_all: dict[str, dict[str, Interval]]
    curves: dict[str, list[Interval | None]]
    ratio: dict[str, Interval]
    calibration_error: float | None
    closed_form: float | None
    alignment: dict[str, Interval]
    num_zero_norm: int
    weights: dict[str, float] = field(default_factory=dict)

    def metrics_of(self, predictor: str) -> dict[str, Interval]:
        """The losses of a predictor, under the names a card has them."""
        return {
            f"test/{loss}_{place}": found[loss][predictor]
            for place, found in (("query", self.at_query), ("all", self.over_all))
            for loss in found
            if predictor in found[loss]
        }

    def model_metrics(self) -> dict[str, Interval]:
        """The model's numbers that have an interval, under the names a card has them."""
        return {
            **self.metrics_of("model"),
            **{f"test/ratio_to_{name}": ratio for name, ratio in self.ratio.items()},
            **{f"alignment/{name}": value for name, value in self.alignment.items()},
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        predictors = dict.fromkeys(name for found in self.at_query.values() for name in found)
        return {
            "num_episodes": self.num_episodes,
            "model": {name: value._asdict() for name, value in self.model_metrics().items()},
            "references": {
                predictor: {n: m._asdict() for n, m in self.metrics_of(predictor).items()}
                for predictor in predictors
                if predictor != "model"
            },
            "test/calibration_error": self.calibration_error,
            "closed_form/half_mse_query": self.closed_form,
            "alignment/num_zero_norm": self.num_zero_norm,
            "weights": self.weights,
            "curves": {
                name: [None if point is None else point._asdict() for point in curve]
                for name, curve in self.curves.items()
            },
        }


def create_report(
    model: Predictor,
    references: Mapping[str, Predictor],
    closed_form: float | None,
    episodes: Batch,
    mean_function: Tensor | None = None,
) -> Report:
    """Measures a model beside exact algorithms on the same episodes.

    Args:
        model: The trained model; with logits the labels are classes.
        references: Exact algorithms by name; the model's behaviour is compared with that of
            `gradient_descent`.
        closed_form: Expected 0.5*MSE of the best gradient step, if it is known.
        episodes: The test episodes.
        mean_function: The matrix (d_y, d_x) that the functions of all episodes have in common, if
            they do; what the model says before any example is compared with it.
    """
    x, y, target, scored = episodes
    found = {
        name: losses(predictor, x, y, target, model.output == "logits")
        for name, predictor in {"model": model, **references}.items()
    }
    by_loss = {
        loss: {name: of_loss[loss] for name, of_loss in found.items() if loss in of_loss}
        for loss in found["model"]
    }
    loss, main = next(iter(by_loss.items()))
    reference = references[REFERENCE]
    agreement = alignment(query_response(model, x, y), query_response(reference, x, y))
    scale = max(values[:, -1].mean() for values in main.values())
    inexact = [n for n in main if n != "model" and main[n][:, -1].mean() > NEGLIGIBLE * scale]
    weights = {}
    if isinstance(model, GDSSM) and isinstance(reference, GradientDescent):
        weights = weights_summary(model, reference.step_size)
    if mean_function is not None:
        start = start_of(model)
        cosine = (start * mean_function).sum() / (start.norm() * mean_function.norm())
        weights["cosine_start"] = cosine.item()
        error = (start - mean_function).norm() / mean_function.norm()
        weights["relative_error_start"] = error.item()
    calibration_error = None
    if model.output == "logits":
        with torch.no_grad():
            pairs = zip(torch.split(x, 200), torch.split(y, 200), strict=True)
            logits = torch.cat([model.predict_query(*pair) for pair in pairs])
        calibration_error = expected_calibration_error(logits, target[:, -1]).item()
    return Report(
        num_episodes=len(x),
        loss=loss,
        at_query={
            name: {p: mean_interval(values[:, -1]) for p, values in of_loss.items()}
            for name, of_loss in by_loss.items()
        },
        over_all={
            name: {p: mean_interval(mean_of_scored(v, scored)) for p, v in of_loss.items()}
            for name, of_loss in by_loss.items()
        },
        curves={
            name: [interval_or_none(column) for column in scored_columns(values, scored)]
            for name, values in main.items()
        },
        ratio={name: ratio_interval(main["model"][:, -1], main[name][:, -1]) for name in inexact},
        calibration_error=calibration_error,
        closed_form=closed_form,
        alignment={
            name: value
            for name, value in agreement._asdict().items()
            if isinstance(value, Interval)
        },
        num_zero_norm=agreement.num_zero_norm,
        weights=weights,
    )


@torch.no_grad()
def start_of(model: Predictor) -> Tensor:
    """W_0 (d_y, d_x) of a model that is linear before any example: its answers to unit vectors."""
    unit = torch.eye(model.d_x)[None]
    return model.predict(model.init_state(1), unit)[0].mT


def report_tables(report: Report) -> list[Table]:
    """The report as tables for a terminal."""
    losses = Table(title=f"loss at the query, {report.num_episodes:,} test episodes")
    losses.add_column("predictor")
    for loss in report.at_query:
        losses.add_column(LOSS_LABELS.get(loss, loss), justify="right")
    losses.add_column("model / predictor", justify="right")
    predictors = dict.fromkeys(name for found in report.at_query.values() for name in found)
    for name in predictors:
        cells = [found.get(name) for found in report.at_query.values()]
        losses.add_row(name, *map(_text, cells), _text(report.ratio.get(name)))
        if name == "model" and report.closed_form is not None:
            losses.add_row("closed form, one step", f"{report.closed_form:.5f}", "")
    if report.calibration_error is not None:
        losses.caption = f"expected calibration error {report.calibration_error:.4f}"
    agreement = Table(title="agreement with one step of gradient descent")
    agreement.add_column("quantity")
    agreement.add_column("value", justify="right")
    for name, value in report.alignment.items():
        agreement.add_row(f"alignment/{name}", _text(value))
    for name, number in report.weights.items():
        agreement.add_row(f"weights/{name}", f"{number:.5f}")
    return [losses, agreement]


def _text(interval: Interval | None) -> str:
    if interval is None:
        return ""
    digits = ".5f" if abs(interval.value) >= 1e-4 else ".1e"
    return f"{interval.value:{digits}} ± {interval.ci95:{digits}}"
