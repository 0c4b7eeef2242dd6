"""What is known of a model at the end of its training."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from datamodules.episodes import Episodes
from zoo.analysis.construction import weights_summary
from zoo.evaluation.compare import Comparison, EpisodeSets
from zoo.evaluation.tables import Grid
from zoo.metrics.alignment import Agreement, agreement, mean_agreement, query_response
from zoo.metrics.classification import expected_calibration_error
from zoo.metrics.errors import Summary, mean_of_scored
from zoo.metrics.scoring import Place, Scoring
from zoo.metrics.text import (
    in_cell,
    loss_label,
    may_reach_zero,
    number_text,
    optional,
    place_text,
    plain,
    share_text,
)
from zoo.models.gd_ssm import GDSSM
from zoo.predictor import Predictor
from zoo.solvers.moment import GradientDescent

FIRST_QUERY = "test/accuracy_first_query"


@dataclass(frozen=True)
class Report:
    """The numbers at the end of a run; every one on the same test episodes.

    Attributes:
        num_episodes: How many episodes.
        loss: What was trained on: `half_mse` or `cross_entropy`.
        place: Where predictors are compared: at the query, or over all scored positions where
            labels are hidden.
        at_query: By loss and predictor; empty where labels are hidden.
        over_all: The same over all scored positions.
        first_query: Accuracy at the first of several queries by predictor; empty where there are
            not several.
        curves: The loss after 0, 1, ... examples, by predictor; None where no episode is scored.
        first_tenth: The model's loss where it is compared on the first tenth of the episodes, by
            which a card is checked in a tenth of the time; None for fewer than 20 episodes.
        ratio: Paired ratio of the model's loss to that of each reference which is not exact to
            rounding; where labels are hidden to that of the first reference alone.
        difference: Paired difference of the model's loss and that of each further reference, where
            labels are hidden.
        calibration_error: Expected calibration error of the model's logits, where it has any and
            labels are shown.
        closed_form: Expected 0.5*MSE at the query of the best gradient step, where it is known;
            under drift of the one that forgets.
        floor: Mean entropy of targets that are distributions, below which no cross entropy comes;
            None where targets are sure.
        alignment: Of the model with gradient descent, by name; empty where labels are hidden.
        num_zero_norm: Episodes without a cosine.
        weights: Cosines of trained and constructed weights and what else is known of them.
    """

    num_episodes: int
    loss: str
    place: Place
    at_query: dict[str, dict[str, Summary]]
    over_all: dict[str, dict[str, Summary]]
    first_query: dict[str, Summary]
    curves: dict[str, list[Summary | None]]
    first_tenth: Summary | None
    ratio: dict[str, Summary]
    difference: dict[str, Summary]
    calibration_error: float | None
    closed_form: float | None
    floor: float | None
    alignment: dict[str, Summary]
    num_zero_norm: int
    weights: dict[str, float] = field(default_factory=dict)

    @property
    def compared(self) -> dict[str, dict[str, Summary]]:
        """By loss and predictor, where they are compared."""
        return self.at_query if self.place == "query" else self.over_all

    def metrics_of(self, predictor: str) -> dict[str, Summary]:
        """The losses of a predictor, under the names a card has them."""
        metrics = {
            f"test/{loss}_{place}": found[loss][predictor]
            for place, found in (("query", self.at_query), ("all", self.over_all))
            for loss in found
            if predictor in found[loss]
        }
        if predictor in self.first_query:
            metrics[FIRST_QUERY] = self.first_query[predictor]
        return metrics

    def model_metrics(self) -> dict[str, Summary]:
        """The model's numbers that are means over episodes, under the names a card has them."""
        return {
            **self.metrics_of("model"),
            **{f"test/ratio_to_{name}": ratio for name, ratio in self.ratio.items()},
            **{f"test/difference_to_{name}": found for name, found in self.difference.items()},
            **{f"alignment/{name}": value for name, value in self.alignment.items()},
        }

    def model_numbers(self) -> dict[str, float]:
        """The model's numbers, each error with its median and the share of its tail, flat."""
        numbers = {}
        for name, found in self.model_metrics().items():
            numbers[name] = found.value
            if found.median is not None and found.tail_share is not None:
                numbers |= {f"{name}/median": found.median, f"{name}/tail_share": found.tail_share}
        return numbers

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        predictors = dict.fromkeys(name for found in self.compared.values() for name in found)
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
            **({} if self.floor is None else {f"floor/{self.loss}_{self.place}": self.floor}),
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
    sets: EpisodeSets,
    scoring: Scoring,
    mean_function: Tensor | None = None,
) -> Report:
    """Measures a model beside exact algorithms on the same episodes.

    Args:
        model: The trained model.
        references: Exact algorithms by name. Where labels are shown the model's behaviour is
            compared with that of the first. Another one that is not finite on an episode is left
            out, with a warning: its means say nothing, and the model's are not lost with them.
        closed_form: Expected 0.5*MSE of the best gradient step, if it is known.
        sets: The test episodes, and the further sets that are measured where tails are heavy.
        scoring: How predictions are scored.
        mean_function: The matrix (d_y, d_x) that the functions of all episodes have in common, if
            they do; what the model says before any example is compared with it.
    """
    comparison = Comparison(sets, scoring)
    first = next(iter(references))
    predictors: dict[str, Predictor] = {}
    for name, predictor in {"model": model, **references}.items():
        comparison.add(name, predictor)
        if name in ("model", first) or comparison.is_finite(name):
            predictors[name] = predictor
        else:
            del comparison.errors[name]
            text = f"{name} is left out of the report: some of its losses are not finite"
            warnings.warn(text, stacklevel=2)
    found = {
        loss: {
            name: comparison.summaries(name, loss, everywhere=name == "model")
            for name in predictors
            if loss in comparison.errors[name]
        }
        for loss in comparison.errors["model"]
    }
    loss, main = next(iter(found.items()))
    others = [name for name in main if name != "model"]
    ratio_to, differ_from = others, []
    if scoring.labels_hidden:
        ratio_to, differ_from = [first], [name for name in others if name != first]
    inexact = [name for name in ratio_to if not comparison.is_rounding(name, loss)]
    alignment: dict[str, Summary] = {}
    num_zero_norm = 0
    weights = {}
    reference = references[first]
    if not scoring.labels_hidden:
        mean = mean_agreement(
            _agreement(model, reference, sets(0)),
            lambda number: _agreement(model, reference, sets(number)),
        )
        alignment = {k: value for k, value in mean._asdict().items() if isinstance(value, Summary)}
        num_zero_norm = mean.num_zero_norm
    if isinstance(model, GDSSM) and isinstance(reference, GradientDescent):
        weights = weights_summary(model, reference.step_size)
    if mean_function is not None:
        start = start_of(model)
        cosine = (start * mean_function).sum() / (start.norm() * mean_function.norm())
        weights["cosine_start"] = cosine.item()
        error = (start - mean_function).norm() / mean_function.norm()
        weights["relative_error_start"] = error.item()
    is_calibrated = model.output == "logits" and not scoring.labels_hidden
    return Report(
        num_episodes=len(comparison.errors["model"][loss][-1]),
        loss=loss,
        place=scoring.place,
        at_query=_at(found, -2) if scoring.place == "query" else {},
        over_all=_at(found, -1),
        first_query=_at(found, scoring.first_query)["accuracy"] if scoring.first_query else {},
        curves={name: all_[:-1] for name, all_ in main.items()},
        first_tenth=comparison.first_tenth("model", loss),
        ratio={name: comparison.ratio("model", name, loss) for name in inexact},
        difference={name: comparison.difference("model", name, loss) for name in differ_from},
        calibration_error=_calibration_error(model, sets(0)) if is_calibrated else None,
        closed_form=closed_form,
        floor=_floor(sets(0)) if scoring.labels_hidden else None,
        alignment=alignment,
        num_zero_norm=num_zero_norm,
        weights=weights,
    )


def _at(
    found: Mapping[str, Mapping[str, list[Summary | None]]], place: int
) -> dict[str, dict[str, Summary]]:
    return {
        loss: {name: value for name, all_ in of_loss.items() if (value := all_[place]) is not None}
        for loss, of_loss in found.items()
    }


def _agreement(f: Predictor, g: Predictor, batches: Iterable[Episodes]) -> Agreement:
    return Agreement.joined(
        agreement(query_response(f, batch.x, batch.y), query_response(g, batch.x, batch.y))
        for batch in batches
    )


@torch.no_grad()
def _calibration_error(model: Predictor, batches: Iterable[Episodes]) -> float:
    logits, targets = [], []
    for batch in batches:
        logits += [model.predict_query(part.x, part.y) for part in batch.split(200)]
        targets.append(batch.target[:, -1])
    return expected_calibration_error(torch.cat(logits), torch.cat(targets)).item()


def _floor(batches: Iterable[Episodes]) -> float | None:
    """Mean over the episodes of the mean entropy of their scored targets; None if it is zero."""
    found = [
        mean_of_scored(torch.special.entr(batch.target).sum(-1), batch.scored) for batch in batches
    ]
    return torch.cat(found).double().mean().item() or None


@torch.no_grad()
def start_of(model: Predictor) -> Tensor:
    """W_0 (d_y, d_x) of a model that is linear before any example: its answers to unit vectors."""
    unit = torch.eye(model.d_x)[None]
    return model.predict(model.init_state(1), unit)[0].mT


def report_tables(report: Report) -> list[Grid]:
    """The report as tables for a terminal."""
    place = place_text(report.place)
    losses = Grid(
        ["predictor", *map(loss_label, report.compared)],
        title=f"loss {place}, {report.num_episodes:,} test episodes",
    )
    if report.first_query:
        losses.headings += ["accuracy, first query", "accuracy, all queries"]
    at_query = report.place == "query"
    of_tail = ["median", "worst 0.1 %", "model / predictor"]
    losses.headings += of_tail if at_query else ["model / predictor", "model - predictor"]
    predictors = dict.fromkeys(name for found in report.compared.values() for name in found)
    for name in predictors:
        cells = [_text(found.get(name), loss) for loss, found in report.compared.items()]
        if report.first_query:
            of_queries = (report.first_query, report.over_all["accuracy"])
            cells += [_text(found.get(name), "accuracy") for found in of_queries]
        main, ratio = report.compared[report.loss].get(name), _text(report.ratio.get(name), "ratio")
        if at_query:
            tail = (
                ("", "") if main is None else (optional(main.median), share_text(main.tail_share))
            )
            losses.add(name, *cells, *tail, ratio)
        else:
            losses.add(name, *cells, ratio, _text(report.difference.get(name), "difference_to_"))
        if name == "model" and report.closed_form is not None:
            losses.add("closed form, one step", plain(report.closed_form))
        if name == "model" and report.floor is not None:
            losses.add("entropy of the targets", plain(report.floor))
    if at_query:
        losses.caption = "worst 0.1 %: the share of the mean that these episodes carry"
    if report.calibration_error is not None:
        text = f"expected calibration error {report.calibration_error:.4f}"
        losses.caption = f"{losses.caption}\n{text}"
    if not report.alignment and not report.weights:
        return [losses]
    agreement = Grid(["quantity", "value"], title="agreement with one step of gradient descent")
    for name, value in report.alignment.items():
        text = number_text(value, signed=may_reach_zero(name))
        agreement.add(f"alignment/{name}", text)
    for name, number in report.weights.items():
        agreement.add(f"weights/{name}", plain(number, 5))
    return [losses, agreement]


def _text(summary: Summary | None, metric: str) -> str:
    signed = may_reach_zero(metric)
    return "" if summary is None else in_cell(number_text(summary, signed=signed))
