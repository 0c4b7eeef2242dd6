"""Which algorithm, and how many of its steps, is nearest to what a layer would answer."""

import torch
from torch import Tensor

from datamodules.episodes import Episodes
from studies.inside.task import NUM_TO_FIT, Task, episodes
from zoo.analysis.lens import Candidate, Nearness, lens, match, nearest, tuned_lens
from zoo.metrics.errors import Interval, half_squared_error, ratio_interval
from zoo.models.sequence import SequenceModel
from zoo.predictor import Predictor
from zoo.solvers.tuning import log_grid

# Arguments are fitted on fewer episodes than readouts, which have more of them.
NUM_TO_MATCH = 100
STEPS = (1, 2, 4)
# Of L-BFGS.
ITERATIONS = 40


class Lenses:
    """The layers of a model, decoded.

    Args:
        model: Any one that predicts values.
        task: Of whose episodes.
        num_episodes: In the test.

    Attributes:
        own: The error at the query after each layer, by the readout of the model, divided by that
            of zero, with its interval over episodes.
        tuned: The same by a readout of each layer; of models without a residual stream the same.
        nearest: Algorithms beside the tuned readout of each layer but the embedding, in the order
            of `candidates`.
        at_end: The arguments of each that are fitted and are an end of their grid: a better value
            may lie beyond.
    """

    def __init__(self, model: Predictor, task: Task, num_episodes: int) -> None:
        fit, test = episodes(task, "tune", NUM_TO_FIT), episodes(task, "test", num_episodes)
        own = lens(model)
        tuned = tuned_lens(model, fit.x, fit.y) if isinstance(model, SequenceModel) else own
        self.own = {layer: _error(cut, test) for layer, cut in own.items()}
        self.tuned = {layer: _error(cut, test) for layer, cut in tuned.items()}
        match = fit.x[:NUM_TO_MATCH], fit.y[:NUM_TO_MATCH]
        self.nearest: dict[int, dict[str, Nearness]] = {}
        self.at_end: dict[int, dict[str, list[str]]] = {}
        for layer, cut in tuned.items():
            if layer:  # the embedding of a query knows no example
                tried = candidates(cut, *match)
                found = nearest(cut, tried, match, (test.x, test.y))
                self.nearest[layer] = {name: found[name] for name in tried}
                self.at_end[layer] = {name: _ends(tried[name], found[name]) for name in tried}


def candidates(layer: Predictor, x: Tensor, y: Tensor) -> dict[str, Candidate]:
    """The algorithms that a layer is compared with, none behind one with more fitted numbers.

    Args:
        layer: The schedules are those that are nearest to it.
        x: (num_episodes, length, d_x).
        y: (num_episodes, length, d_y).
    """
    found = grids(_unit(x))
    for k in STEPS[1:]:
        schedule = {"step_sizes": fitted_schedule(layer, k, x, y)}
        found[_steps("scheduled descent", k)] = Candidate("scheduled_gradient_descent", schedule)
    return found


def grids(unit: float) -> dict[str, Candidate]:
    """The algorithms whose arguments are fitted on a grid.

    Args:
        unit: The scale of a step size, the inverse of the mean eigenvalue of A.
    """
    found = {_steps("gradient descent", k): _descent(k, unit) for k in STEPS}
    found["delta rule"] = Candidate("online_gradient_descent", grid=_sizes(1, unit))
    found["ridge"] = Candidate("ridge", grid={"penalty": log_grid(1e-3, 1e3, 7)})
    for k in STEPS[1:]:
        of_both = _sizes(k, unit) | {"gamma": log_grid(0.001, 2.0, 9, unit)}
        two = Candidate("gradient_descent_plus_plus", {"num_steps": k}, of_both)
        found[_steps("GD++", k)] = two
    return found


def fitted_schedule(layer: Predictor, num_steps: int, x: Tensor, y: Tensor) -> tuple[float, ...]:
    """Step sizes of the gradient descent that is nearest to a layer at the query.

    The mean squared difference is made small by L-BFGS over the logarithms of the sizes. They start
    around the size of the steps that are nearest when all are equal, and apart: equal ones would
    stay equal.

    Args:
        layer: Any predictor.
        num_steps: How many sizes.
        x: (num_episodes, length, d_x).
        y: (num_episodes, length, d_y).
    """
    with torch.no_grad():
        wanted = layer.predict_query(x, y).double()
    example_x, example_y, query = x[:, :-1].double(), y[:, :-1].double(), x[:, -1:].double()
    spread = torch.logspace(-0.3, 0.3, num_steps, dtype=torch.float64)
    _, equal = match(_descent(num_steps, _unit(x)), layer, x, y)
    logs = (spread * equal["step_size"]).log().requires_grad_()
    optimizer = torch.optim.LBFGS([logs], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        v, answer = query, torch.zeros_like(wanted)[:, None]
        for size in logs.exp():
            votes = size * (v @ example_x.mT)
            answer, v = answer + votes @ example_y, v - votes @ example_x
        found = (answer[:, 0] - wanted).square().mean() / wanted.square().mean()
        found.backward()
        return found

    optimizer.step(loss)
    return tuple(logs.detach().exp().clamp(1e-12).tolist())


def _ends(candidate: Candidate, near: Nearness) -> list[str]:
    """Arguments that are the least or the largest value of their grid."""
    return [
        name
        for name, values in candidate.grid.items()
        if near.arguments[name] in (min(values), max(values))
    ]


def _descent(num_steps: int, unit: float) -> Candidate:
    return Candidate("gradient_descent", {"num_steps": num_steps}, _sizes(num_steps, unit))


def _sizes(num_steps: int, unit: float) -> dict[str, tuple[float, ...]]:
    """A grid of step sizes: of several steps each is smaller, and layers may answer little."""
    return {"step_size": log_grid(0.005, 20.0, 11, unit / num_steps)}


def _unit(x: Tensor) -> float:
    """The inverse of the mean eigenvalue of A, the scale of a step size."""
    return 1 / (x[:, :-1].square().sum((1, 2)).mean() / x.shape[2]).item()


def _steps(name: str, num: int) -> str:
    return f"{name}, {num} step{'s' if num > 1 else ''}"


@torch.no_grad()
def _error(predictor: Predictor, test: Episodes) -> Interval:
    errors = half_squared_error(predictor.predict_query(test.x, test.y), test.target[:, -1])
    zero = half_squared_error(torch.zeros_like(test.target[:, -1]), test.target[:, -1])
    return ratio_interval(errors, zero)
