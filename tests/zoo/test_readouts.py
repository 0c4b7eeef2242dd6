"""The weights that a learner answers with are those of its solver, whatever the examples are."""

from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from tests.conftest import MakePairs
from tests.zoo.test_online_learner import CONSTRUCTIONS, learner
from tests.zoo.test_probes import episodes
from zoo.analysis.hidden import streaming_states
from zoo.analysis.imitation import (
    Behaviour,
    behaviour,
    best_matching,
    implicit_weights,
    likeness,
)
from zoo.analysis.readouts import in_time, mean_by_position, read_out
from zoo.metrics.alignment import QueryResponse
from zoo.models.gd_ssm import GDSSM, construct_gradient_descent_
from zoo.models.online_learner import construct_solver_
from zoo.predictor import Predictor

NUM = 20


def drift() -> tuple[Tensor, Tensor]:
    """The function changes a little with every example."""
    function = {"name": "linear_drift", "rho": 0.9}
    x, y, _ = episodes("test", NUM, num_context=12, function=function)
    return x, y


def update() -> tuple[Tensor, Tensor]:
    """After six examples the same inputs have the labels of another function."""
    first, y, _ = episodes("test", NUM, num_context=5)
    _, other, _ = episodes("val", NUM, num_context=5)
    return torch.cat([first, first], dim=1), torch.cat([y, other], dim=1)


def outliers() -> tuple[Tensor, Tensor]:
    """One of three examples has nothing to do with the function."""
    x, y, _ = episodes("test", NUM, num_context=12, outliers={"probability": 0.3})
    return x, y


EPISODES = pytest.mark.parametrize("drawn", [drift, update, outliers])


def queries() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(NUM, 12, 3, generator=generator, dtype=torch.float64)


def agree(model: Predictor, solver: Predictor, x: Tensor, y: Tensor) -> None:
    found, exact = (read_out(predictor, x, y, queries()) for predictor in (model, solver))
    torch.testing.assert_close(found.W, exact.W, rtol=0, atol=1e-10)
    assert found.nonlinear.max() < 1e-20
    compared = in_time(found.W, exact.W)
    assert compared.cosine[:, 0].isnan().all()  # no weights yet
    assert compared.cosine[:, 1:].min() > 1 - 1e-10
    assert compared.difference[:, 1:].max() < 1e-8
    assert compared.update_cosine.min() > 1 - 1e-8
    assert compared.update_difference.max() < 1e-6


@EPISODES
@pytest.mark.parametrize(("arguments", "construction", "name", "of_solver"), CONSTRUCTIONS)
def test_a_constructed_learner_has_the_weights_of_its_solver_all_the_way(
    drawn: Any,
    arguments: dict[str, Any],
    construction: dict[str, float],
    name: str,
    of_solver: dict[str, Any],
) -> None:
    model = construct_solver_(learner(3, 2, **arguments), **construction)
    agree(model, zoo.create_solver(name, d_x=3, d_y=2, **of_solver), *drawn())


@EPISODES
@pytest.mark.parametrize("num_steps", [1, 3])
def test_a_constructed_gd_ssm_has_the_weights_of_its_steps_all_the_way(
    drawn: Any, num_steps: int
) -> None:
    model = zoo.create_model("gd_ssm", d_x=3, d_y=2, num_steps=num_steps).double()
    construct_gradient_descent_(model, 0.2)
    solver = zoo.create_solver("gradient_descent", d_x=3, d_y=2, num_steps=num_steps, step_size=0.2)
    agree(model, solver, *drawn())


@EPISODES
def test_a_gd_ssm_that_decays_has_the_weights_of_a_step_that_forgets(drawn: Any) -> None:
    model = zoo.create_model("gd_ssm", d_x=3, d_y=2).double()
    assert isinstance(model, GDSSM)
    construct_gradient_descent_(model, 0.2)
    with torch.no_grad():
        model.layer.weights().B.Lambda_re.fill_(torch.tensor(0.8).log().item())
        model.layer.weights().B.log_step.zero_()
    arguments = {"step_size": 0.2, "forgetting": torch.tensor(0.8).item()}
    solver = zoo.create_solver("weighted_gradient_descent", d_x=3, d_y=2, **arguments)
    x, y = drawn()
    found, exact = (read_out(predictor, x, y, queries()).W for predictor in (model, solver))
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-6)


@EPISODES
def test_another_algorithm_is_told_apart(drawn: Any) -> None:
    x, y = drawn()
    model = construct_solver_(learner(3, 2, rule="delta_rule"), step_size=0.5)
    other = zoo.create_solver("recursive_least_squares", d_x=3, d_y=2, penalty=0.1)
    W, V = (read_out(predictor, x, y, queries()).W for predictor in (model, other))
    compared = in_time(W, V)
    assert compared.cosine[:, -1].mean() < 0.98
    assert compared.update_cosine[:, 1:].mean() < 0.95
    assert compared.difference[:, -1].mean() > 0.1
    torch.testing.assert_close(compared.cosine[:, 1], torch.ones(NUM, dtype=torch.float64))


@pytest.mark.parametrize("name", ["kalman_filter", "recursive_least_squares", "longhorn"])
def test_weights_of_solvers_are_those_in_their_state(name: str) -> None:
    solver = zoo.create_solver(
        name, d_x=3, d_y=2, **zoo.solvers.solver.solver_of(name).example(3, 2)
    )
    x, y = drift()
    factor = 0.9 if name == "kalman_filter" else 1.0  # asked after one more drift
    expected = factor * streaming_states(solver, x, y)["W"]
    torch.testing.assert_close(read_out(solver, x, y, queries()).W, expected)


def test_the_last_position_has_the_implicit_weights(make_pairs: MakePairs) -> None:
    model = zoo.create_model("transformer", d_x=3, d_y=2, d_model=16, num_layers=1).double()
    x, y = make_pairs(3, 2, 6, batch=NUM)
    found = read_out(model, x, y, queries())
    assert found.W.shape == (NUM, 6, 3, 2)
    torch.testing.assert_close(found.W[:, -1], implicit_weights(model, x, y, queries()))
    assert (found.nonlinear > 1e-4).all()
    assert (found.nonlinear < 1).all()
    for part, length in zip(in_time(found.W, found.W), (6, 6, 5, 5), strict=True):
        assert part.shape == (NUM, length)


def test_means_leave_out_what_is_not_defined() -> None:
    x, y = drift()
    solver = zoo.create_solver("ridge", d_x=3, d_y=2, penalty=1.0)
    W = read_out(solver, x, y, queries()).W
    first, *others = mean_by_position(in_time(W, W).cosine)
    assert first is None
    assert len(others) == 12
    for mean in others:
        assert mean is not None
        assert mean.value == pytest.approx(1)


def test_what_cannot_be_read_out_is_refused() -> None:
    x, y = drift()
    solver = zoo.create_solver("ridge", d_x=3, d_y=2, penalty=1.0)
    with pytest.raises(ValueError, match="width 3 need at least as many queries, got 2"):
        read_out(solver, x, y, queries()[:, :2])
    one, two = queries()[:, :1].expand(-1, 12, -1), queries().clone()
    two[7, :, 2] = two[7, :, 1]
    for wrong, said in (
        (one, "span 3 directions in every episode, got some that span 1"),
        (two, "span 3 directions in every episode, got some that span 2"),
        (0 * one, "got some that span 0"),
        (queries()[:1], "queries must be .20, num_query, 3. as x is, got .1, 12, 3."),
        (queries()[0], "queries must be"),
        (queries() / 0, "queries must be finite, got 720 of 720"),
    ):
        for measure in (read_out, implicit_weights):
            with pytest.raises(ValueError, match=said):
                measure(solver, x, y, wrong)
    with pytest.raises(ValueError, match="both weights must be"):
        in_time(torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 5, 4))


def test_answers_and_weights_that_are_not_finite_are_not_left_out() -> None:
    x, y = drift()
    solver = zoo.create_solver("ridge", d_x=3, d_y=2, penalty=1.0)
    W = read_out(solver, x, y, queries()).W
    bad = W.clone()
    bad[:5, 3, 0, 0] = torch.nan
    for given, name in (((bad, W), "W"), ((W, bad / 0), "V")):
        with pytest.raises(ValueError, match=f"^{name} must be finite"):
            in_time(*given)
    x[:5, 1] = torch.nan  # of a quarter of the episodes
    with pytest.raises(ValueError, match="answers must be finite, got 120 of 480"):
        read_out(solver, x, y, queries())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_queries_that_span_a_plane_up_to_rounding_are_refused(dtype: torch.dtype) -> None:
    """Their products in float32 leave the plane by what is rounded, which float64 sees."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(NUM, 12, 2, generator=generator, dtype=dtype)
    flat = flat @ torch.randn(2, 3, generator=generator, dtype=dtype)
    x, y = (part.to(dtype) for part in drift())
    solver = zoo.create_solver("ridge", d_x=3, d_y=2, penalty=1.0)
    for measure in (read_out, implicit_weights):
        with pytest.raises(ValueError, match="span 3 directions in every episode, got some that"):
            measure(solver, x, y, flat)
        measure(solver, x, y, queries().to(dtype))


def behaviours() -> tuple[Behaviour, Behaviour, Tensor]:
    """Of two solvers, and targets at the query."""
    x, y = drift()
    solvers = (zoo.create_solver("ridge", d_x=3, d_y=2, penalty=p) for p in (0.1, 1.0))
    f, g = (behaviour(solver, x, y, queries()) for solver in solvers)
    return f, g, y[:, -1]


def test_likeness_broadcasts_nothing_and_leaves_out_nothing() -> None:
    f, g, target = behaviours()
    for wrong in (target[:, :1], target[:1], target[..., None]):
        with pytest.raises(ValueError, match="target must have the shape of the predictions of f"):
            likeness(f, g, wrong)
    for other, name in (
        (Behaviour(QueryResponse(g.response.prediction[:1], g.response.jacobian), g.weights), "pr"),
        (Behaviour(QueryResponse(g.response.prediction, g.response.jacobian[:1]), g.weights), "Ja"),
        (Behaviour(g.response, g.weights[:1]), "weights"),
    ):
        with pytest.raises(ValueError, match=f"{name}.* of g must have the shape of those of f"):
            likeness(f, other, target)
    for given, said in (
        ((f, Behaviour(g.response, g.weights / 0), target), "weights of g must be finite"),
        ((f, g, target * torch.nan), "target must be finite"),
    ):
        with pytest.raises(ValueError, match=said):
            likeness(*given)


def test_a_candidate_that_overflows_is_not_the_best_matching() -> None:
    x, y = drift()

    def steps(size: float, num: int = 1) -> Predictor:
        return zoo.create_solver("gradient_descent", d_x=3, d_y=2, num_steps=num, step_size=size)

    model, near, bad = steps(0.2), steps(0.3), steps(1e60, 8)
    assert not bad.predict_query(x, y).isfinite().any()
    for candidates in ({1: bad, 2: near}, {2: near, 1: bad}):
        assert best_matching(model, candidates, [(x, y)]) == 2
    with pytest.raises(ValueError, match="no candidate predicts finite numbers alone, got .1."):
        best_matching(model, {1: bad}, [(x, y)])
    with pytest.raises(ValueError, match="at least one candidate, got none"):
        best_matching(model, {}, [(x, y)])
    with pytest.raises(ValueError, match="predictions of the model must be finite"):
        best_matching(bad, {2: near}, [(x, y)])
