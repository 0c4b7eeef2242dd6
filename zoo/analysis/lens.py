"""The layer lens: what a model would answer after each layer, and which algorithm that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.analysis.checks import check_finite, check_shape
from zoo.analysis.hidden import Passage, apart, hidden_states
from zoo.analysis.probes import PENALTIES, fit_probe
from zoo.layers.gd_ssm_steps import GDSSMStepsLayer
from zoo.metrics.alignment import QueryResponse, agreement, mean_cosine, query_response
from zoo.metrics.classification import cross_entropy
from zoo.metrics.errors import Summary, half_squared_error
from zoo.models.gd_ssm_base import WindowedPredictor
from zoo.models.linear_transformer import LinearTransformer
from zoo.models.online_learner import OnlineLearner
from zoo.models.sequence import SequenceModel
from zoo.predictor import Predictor
from zoo.registry import create_solver
from zoo.solvers.tuning import narrowed, tune

# Of the way to neighbours in a grid, which are at last apart by the 128th root of what they were.
HALVINGS = 7


@dataclass(frozen=True)
class Candidate:
    """An algorithm that a layer may be.

    Attributes:
        solver: Its registered name.
        fixed: Arguments that are settled, such as `num_steps`.
        grid: Values of the arguments that are fitted to every layer, such as `step_size`: first
            those of the grid, then finer ones around the best, all arguments together. What must be
            a whole number is settled, in a candidate of its own for each.

    Raises:
        ValueError: If `fixed` or `grid` is no mapping, an argument is both settled and fitted, or
            the grid has no values, or whole numbers alone, of one.
    """

    solver: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, given in (("fixed", self.fixed), ("grid", self.grid)):
            if not isinstance(given, Mapping):
                raise ValueError(
                    f"{name} must have arguments by name, such as {{'penalty': ...}}, got {given!r}"
                )
        if both := sorted(self.fixed.keys() & self.grid.keys()):
            raise ValueError(f"an argument is either fixed or fitted, got both of {both}")
        for name, values in self.grid.items():
            if not isinstance(values, Sequence) or not values:
                raise ValueError(
                    f"grid must have a tuple or a list of one value or more of {name}, got "
                    f"{values!r}"
                )
            if all(isinstance(value, int) for value in values):
                raise ValueError(
                    f"values between those of a grid are tried as well, got {name} = {values!r}; "
                    f"if 1.5 is a {name}, write {float(values[0])}; if not, make a candidate for "
                    f"each, such as fixed={{{name!r}: {values[0]}}}"
                )


class Nearness(NamedTuple):
    """A layer f beside an algorithm g at the query of the same episodes.

    Attributes:
        prediction_cosine: sum <f, g> / sqrt(sum |f|^2 sum |g|^2), sums over episodes; None where
            one of them is always zero.
        jacobian_cosine: mean <J_f, J_g> / (|J_f| |J_g|) of the derivatives by the query; None where
            it is defined in fewer than two episodes.
        difference: sum |f - g|^2 / sum |f|^2, which scales count in as well; None where f is zero.
        arguments: Those of the algorithm, fixed and fitted.
    """

    prediction_cosine: float | None
    jacobian_cosine: Summary | None
    difference: float | None
    arguments: dict[str, Any]

    @property
    def cosine(self) -> float:
        """The mean of both cosines; one that is not defined counts as zero."""
        jacobian = 0.0 if self.jacobian_cosine is None else self.jacobian_cosine.value
        return ((self.prediction_cosine or 0.0) + jacobian) / 2


def lens(model: Predictor) -> dict[int, Predictor]:
    """The model cut off after each layer and decoded by its own readout, by number of layers.

    Each is a predictor like any other and shares the weights of the model, which stays as it is.

    | model | what answers after l layers |
    |---|---|
    | deep | `readout(norm(u))` of the residual stream u after l blocks; 0 is the embedding |
    | `linear_transformer` | the label part of the query after l layers |
    | `gd_ssm` of k steps and its kin | the last l steps, which the layer computes first, from W_0 |
    | `online_learner` | it has one layer |

    Raises:
        ValueError: If it is none of these models.
    """
    cut: Predictor
    lenses: dict[int, Predictor] = {}
    if isinstance(model, SequenceModel):
        for layer in range(len(model.blocks) + 1):
            cut = lenses[layer] = apart(model)
            cut.blocks = model.blocks[:layer] if layer else nn.ModuleList([Passage()])
    elif isinstance(model, LinearTransformer):
        for layer in range(1, model.num_layers + 1):
            cut = lenses[layer] = apart(model)
            cut.num_layers = layer
    elif isinstance(model, WindowedPredictor) and isinstance(model.layer, GDSSMStepsLayer):
        for layer in range(1, len(model.layer.C) + 1):
            cut = lenses[layer] = apart(model)
            cut.layer = _last_steps(model.layer, layer)
    elif isinstance(model, WindowedPredictor | OnlineLearner):
        lenses[1] = model
    else:
        raise ValueError(f"only models have layers, got {type(model).__name__}")
    return lenses


@torch.no_grad()
def tuned_lens(
    model: SequenceModel, x: Tensor, y: Tensor, penalties: tuple[float, ...] = PENALTIES
) -> dict[int, Predictor]:
    """`lens`, with a readout of its own for every layer.

    The readout of layer l is the affine map of norm(u) that is nearest, over all positions, to what
    the whole model predicts: `fit_probe` with these predictions as targets. It tells what the layer
    knows of the answer where the own readout of the model does not fit it yet. Source: Belrose et
    al. 2023 (arXiv 2303.08112), whose maps are trained by gradient descent.

    Args:
        model: Any deep sequence model.
        x: Inputs to fit on, (num_episodes, length, d_x).
        y: Labels, (num_episodes, length, d_y).
        penalties: As at `fit_probe`.
    """
    hidden = hidden_states(model, x, y).queries
    answers = model.readout(model.norm(hidden[-1])).flatten(0, 1)
    lenses = lens(model)
    for layer, cut in lenses.items():
        found = fit_probe(model.norm(hidden[layer]).flatten(0, 1), answers, penalties)
        readout = nn.Linear(len(found.feature_mean), len(found.target_mean)).to(answers)
        readout.weight.copy_(found.weight.mT)
        readout.bias.copy_(found.target_mean - found.feature_mean @ found.weight)
        cut.readout = readout
    return lenses


@torch.no_grad()
def errors_by_layer(
    lenses: Mapping[int, Predictor], x: Tensor, y: Tensor, target: Tensor
) -> dict[int, Tensor]:
    """The error of each layer, (num_episodes, length).

    It is 0.5*MSE, averaged over the coordinates of the label; of logits the cross entropy.

    Args:
        lenses: Of `lens` or `tuned_lens`.
        x: (num_episodes, length, d_x).
        y: (num_episodes, length, d_y).
        target: (num_episodes, length, d_y).

    Raises:
        ValueError: If the target is not of the shape of y.
    """
    check_shape("target", target, tuple(y.shape), "y")
    errors = {}
    for layer, cut in lenses.items():
        measure = cross_entropy if cut.output == "logits" else half_squared_error
        errors[layer] = measure(cut(x, y), target)
    return errors


def nearest(
    layer: Predictor,
    candidates: Mapping[str, Candidate],
    fit_on: tuple[Tensor, Tensor],
    measure_on: tuple[Tensor, Tensor],
) -> dict[str, Nearness]:
    """How near algorithms are to a layer, the nearest first.

    What an algorithm leaves open is fitted to the predictions of the layer at the query, in the
    mean square. The order is that of `Nearness.cosine`, on other episodes.

    Args:
        layer: Of `lens` or `tuned_lens`, or any other predictor of values.
        candidates: By their labels.
        fit_on: x and y of the episodes to fit on.
        measure_on: x and y of other episodes.

    Raises:
        ValueError: If there is no candidate, one of them is unknown, its predictions are of
            another kind than the layer's, or predictions are not finite.
    """
    if not candidates:
        raise ValueError("nearest needs at least one candidate, got none")
    for label, candidate in candidates.items():
        if not isinstance(candidate, Candidate):
            raise ValueError(
                f"candidates must be such as Candidate('least_squares'), got {candidate!r} as "
                f"{label!r}"
            )
    of_layer = query_response(layer, *measure_on)
    found = {}
    for label, candidate in candidates.items():
        solver, arguments = match(candidate, layer, *fit_on)
        found[label] = nearness(of_layer, query_response(solver, *measure_on), arguments)
    return dict(sorted(found.items(), key=lambda item: -item[1].cosine))


@torch.no_grad()
def match(
    candidate: Candidate, predictor: Predictor, x: Tensor, y: Tensor
) -> tuple[Predictor, dict[str, Any]]:
    """The solver that is nearest to a predictor in the mean square at the query.

    Args:
        candidate: What is settled and what is fitted.
        predictor: A model or a layer of it.
        x: (num_episodes, length, d_x).
        y: (num_episodes, length, d_y).

    Returns:
        The solver, and its arguments.

    Raises:
        ValueError: If it predicts values and the predictor logits, or the other way round, or the
            predictions of the predictor are not finite.
    """
    arguments, name = dict(candidate.fixed), candidate.solver
    if candidate.grid:
        target = torch.zeros_like(y)
        target[:, -1] = predictor.predict_query(x, y)
        check_finite(predictions_of_the_layer=target[:, -1])

        def best_of(grid: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
            return tune(name, grid, x, y, target, fixed=candidate.fixed)

        arguments = narrowed(best_of, candidate.grid, HALVINGS)
    solver = create_solver(name, d_x=predictor.d_x, d_y=predictor.d_y, **arguments)
    if solver.output != predictor.output:
        raise ValueError(f"{name} predicts {solver.output}, the layer {predictor.output}")
    return solver, arguments


def nearness(f: QueryResponse, g: QueryResponse, arguments: dict[str, Any]) -> Nearness:
    """How near a layer and an algorithm are by their responses to the same episodes.

    Args:
        f: Of the layer.
        g: Of the algorithm.
        arguments: Those of the algorithm.

    Raises:
        ValueError: If predictions or Jacobians of both differ in their shapes or are not finite.
    """
    for name, of_f, of_g in (
        ("predictions", f.prediction, g.prediction),
        ("Jacobians", f.jacobian, g.jacobian),
    ):
        check_shape(f"{name} of the algorithm", of_g, tuple(of_f.shape), "those of the layer")
    check_finite(predictions_of_the_layer=f.prediction, jacobians_of_the_layer=f.jacobian)
    check_finite(predictions_of_the_algorithm=g.prediction, jacobians_of_the_algorithm=g.jacobian)
    a, b = f.prediction.double(), g.prediction.double()
    size, norms = a.square().sum().item(), (a.norm() * b.norm()).item()
    return Nearness(
        prediction_cosine=(a * b).sum().item() / norms if norms > 0 else None,
        jacobian_cosine=mean_cosine(agreement(f, g).cosine),
        difference=(a - b).square().sum().item() / size if size > 0 else None,
        arguments=arguments,
    )


def _last_steps(layer: GDSSMStepsLayer, num_steps: int) -> GDSSMStepsLayer:
    """The last steps of a layer, which its loop computes first, from the same start."""
    cut, first = apart(layer), len(layer.C) - num_steps
    for name in ("C", "E", "P"):
        weights = getattr(layer, name)
        if weights is not None:
            setattr(cut, name, nn.Parameter(weights[first:]))
    return cut
