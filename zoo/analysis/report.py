"""What is known of a model at the end of its training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from torch import Tensor

from zoo.analysis.compare import errors_at_every_position
from zoo.analysis.construction import cosines_with_construction, effective_step_size
from zoo.metrics.alignment import alignment, query_response
from zoo.metrics.errors import Interval, mean_interval, ratio_interval
from zoo.models.gd_ssm import GDSSM
from zoo.predictor import Predictor
from zoo.solvers.moment import GradientDescent

REFERENCE = "gradient_descent"
# An error below this fraction of the zero predictor's is rounding: no ratio to it means anything.
NEGLIGIBLE = 1e-6


@dataclass(frozen=True)
class Report:
    """The numbers at the end of a run; every one on the same test episodes.

    Attributes:
        num_episodes: How many episodes.
        half_mse_query: 0.5*MSE at the query, by predictor.
        half_mse_all: 0.5*MSE over all positions, by predictor.
        curves: 0.5*MSE after 0, 1, ... examples, by predictor.
        ratio: Paired ratio of the model's error at the query to that of each reference which is not
            exact to rounding.
        closed_form: Expected 0.5*MSE at the query of the optimal gradient step.
        alignment: Of the model with gradient descent, by name.
        num_zero_norm: Episodes without a cosine.
        weights: Cosines of trained and constructed weights and what else is known of them.
    """

    num_episodes: int
    half_mse_query: dict[str, Interval]
    half_mse_all: dict[str, Interval]
    curves: dict[str, list[Interval]]
    ratio: dict[str, Interval]
    closed_form: float
    alignment: dict[str, Interval]
    num_zero_norm: int
    weights: dict[str, float] = field(default_factory=dict)

    def model_metrics(self) -> dict[str, Interval]:
        """The model's numbers that have an interval, under the names a card has them."""
        return {
            "test/half_mse_query": self.half_mse_query["model"],
            "test/half_mse_all": self.half_mse_all["model"],
            **{f"test/ratio_to_{name}": ratio for name, ratio in self.ratio.items()},
            **{f"alignment/{name}": value for name, value in self.alignment.items()},
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "num_episodes": self.num_episodes,
            "model": {name: value._asdict() for name, value in self.model_metrics().items()},
            "references": {
                name: {
                    "test/half_mse_query": self.half_mse_query[name]._asdict(),
                    "test/half_mse_all": self.half_mse_all[name]._asdict(),
                }
                for name in self.half_mse_query
                if name != "model"
            },
            "closed_form/half_mse_query": self.closed_form,
            "alignment/num_zero_norm": self.num_zero_norm,
            "weights": self.weights,
            "curves": {
                name: [point._asdict() for point in curve] for name, curve in self.curves.items()
            },
        }


def create_report(
    model: Predictor,
    references: Mapping[str, Predictor],
    closed_form: float,
    x: Tensor,
    y: Tensor,
    target: Tensor,
) -> Report:
    """Measures a model beside exact algorithms on the same episodes.

    Args:
        model: The trained model.
        references: Exact algorithms by name, `gradient_descent` and `zero` among them.
        closed_form: Expected 0.5*MSE of the optimal gradient step.
        x: (num_episodes, length, d_x).
        y: (num_episodes, length, d_y).
        target: (num_episodes, length, d_y).
    """
    gradient_descent = references[REFERENCE]
    assert isinstance(gradient_descent, GradientDescent)
    errors = errors_at_every_position({"model": model, **references}, x, y, target)
    agreement = alignment(query_response(model, x, y), query_response(gradient_descent, x, y))
    scale = errors["zero"][:, -1].mean()
    inexact = [n for n in references if errors[n][:, -1].mean() > NEGLIGIBLE * scale]
    weights = {}
    if isinstance(model, GDSSM):
        cosines = cosines_with_construction(model, gradient_descent.step_size)
        weights = {f"cosine_{name}": value for name, value in cosines.items()}
        weights["mean_Lambda_bar"] = model.identifiable_weights()["Lambda_bar"].mean().item()
        weights["step_size"] = effective_step_size(model)
        weights["constructed_step_size"] = gradient_descent.step_size
    return Report(
        num_episodes=len(x),
        half_mse_query={name: mean_interval(e[:, -1]) for name, e in errors.items()},
        half_mse_all={name: mean_interval(e.mean(1)) for name, e in errors.items()},
        curves={name: [mean_interval(c) for c in e.unbind(1)] for name, e in errors.items()},
        ratio={n: ratio_interval(errors["model"][:, -1], errors[n][:, -1]) for n in inexact},
        closed_form=closed_form,
        alignment={
            name: value
            for name, value in agreement._asdict().items()
            if isinstance(value, Interval)
        },
        num_zero_norm=agreement.num_zero_norm,
        weights=weights,
    )


def report_tables(report: Report) -> list[Table]:
    """The report as tables for a terminal."""
    errors = Table(title=f"error at the query, {report.num_episodes:,} test episodes")
    for heading in ("predictor", "0.5*MSE", "model / predictor"):
        errors.add_column(heading, justify="left" if heading == "predictor" else "right")
    errors.add_row("model", _text(report.half_mse_query["model"]), "")
    errors.add_row("closed form, one step", f"{report.closed_form:.5f}", "")
    for name, error in report.half_mse_query.items():
        if name != "model":
            ratio = report.ratio.get(name)
            errors.add_row(name, _text(error), "" if ratio is None else _text(ratio))
    agreement = Table(title="agreement with one step of gradient descent")
    agreement.add_column("quantity")
    agreement.add_column("value", justify="right")
    for name, value in report.alignment.items():
        agreement.add_row(f"alignment/{name}", _text(value))
    for name, number in report.weights.items():
        agreement.add_row(f"weights/{name}", f"{number:.5f}")
    return [errors, agreement]


def _text(interval: Interval) -> str:
    digits = ".5f" if abs(interval.value) >= 1e-4 else ".1e"
    return f"{interval.value:{digits}} ± {interval.ci95:{digits}}"
