"""Exact algorithms against numpy, and the closed forms against Monte Carlo."""

import numpy as np
import pytest
import torch

import zoo
from datamodules import EpisodeSpec, create_sampler
from datamodules.linear import LinearDrift
from datamodules.stream import Generators
from tests.conftest import MakePairs
from zoo.metrics.errors import half_squared_error, mean_interval
from zoo.references import linear_moments
from zoo.solvers.theory import (
    LinearEpisodes,
    expected_half_mse,
    optimal_forgetting,
    optimal_half_mse,
    optimal_step_size,
)


@pytest.mark.parametrize(("d_x", "d_y", "length"), [(4, 3, 9), (4, 1, 3), (6, 6, 7)])
def test_least_squares_is_the_minimum_norm_solution_at_every_prefix(
    d_x: int, d_y: int, length: int, make_pairs: MakePairs
) -> None:
    x, y = make_pairs(d_x, d_y, length)
    prediction = zoo.create_solver("least_squares", d_x=d_x, d_y=d_y)(x, y)
    for b in range(len(x)):
        for i in range(length):
            W = np.linalg.pinv(x[b, :i].numpy()) @ y[b, :i].numpy()
            np.testing.assert_allclose(prediction[b, i], x[b, i].numpy() @ W, atol=1e-7)


def test_least_squares_with_repeated_inputs_is_the_minimum_norm_solution(
    make_pairs: MakePairs,
) -> None:
    x, y = make_pairs(4, 2, 9)
    x[:, 2:8] = x[:, :1]  # rank 2, however many examples
    prediction = zoo.create_solver("least_squares", d_x=4, d_y=2).predict_query(x, y)
    for b in range(len(x)):
        W = np.linalg.pinv(x[b, :-1].numpy(), rcond=1e-8) @ y[b, :-1].numpy()
        np.testing.assert_allclose(prediction[b], x[b, -1].numpy() @ W, atol=1e-7)


def test_least_squares_is_exact_without_noise_once_there_are_d_examples() -> None:
    episodes = create_sampler(EpisodeSpec()).sample(2000, Generators(0, "test", 0, "cpu"))
    prediction = zoo.create_solver("least_squares", d_x=10, d_y=10)(episodes.x, episodes.y)
    errors = half_squared_error(prediction, episodes.target).mean(0)
    assert errors[10] < 1e-6
    assert errors[9] > 1e-3


def test_ridge_solves_the_penalised_normal_equations(make_pairs: MakePairs) -> None:
    x, y = make_pairs(4, 3, 7)
    prediction = zoo.create_solver("ridge", d_x=4, d_y=3, penalty=0.7)(x, y)
    for b in range(len(x)):
        for i in range(7):
            X, Y = x[b, :i].numpy(), y[b, :i].numpy()
            W = np.linalg.solve(X.T @ X + 0.7 * np.eye(4), X.T @ Y)
            np.testing.assert_allclose(prediction[b, i], x[b, i].numpy() @ W, atol=1e-10)


@pytest.mark.parametrize("num_steps", [0, 1, 2, 5])
def test_gradient_descent_follows_the_gradient_of_the_summed_loss(
    num_steps: int, make_pairs: MakePairs
) -> None:
    x, y = make_pairs(4, 3, 6)
    solver = zoo.create_solver(
        "gradient_descent", d_x=4, d_y=3, step_size=0.05, num_steps=num_steps
    )
    prediction = solver(x, y)
    for b in range(len(x)):
        for i in range(6):
            W = torch.zeros(4, 3, dtype=x.dtype, requires_grad=True)
            for _ in range(num_steps):
                loss = 0.5 * (x[b, :i] @ W - y[b, :i]).square().sum()
                (gradient,) = torch.autograd.grad(loss, W)
                W = (W - 0.05 * gradient).detach().requires_grad_()
            torch.testing.assert_close(prediction[b, i], (x[b, i] @ W).detach())


def test_many_gradient_steps_approach_least_squares(make_pairs: MakePairs) -> None:
    x, y = make_pairs(3, 2, 12)
    solver = zoo.create_solver("gradient_descent", d_x=3, d_y=2, step_size=0.03, num_steps=5000)
    expected = zoo.create_solver("least_squares", d_x=3, d_y=2).predict_query(x, y)
    torch.testing.assert_close(solver.predict_query(x, y), expected)


def test_ridge_with_the_true_ratio_is_the_best_ridge_on_noisy_gaussian_episodes() -> None:
    spec = EpisodeSpec(d_x=5, d_y=1, num_context=8, inputs={"name": "gaussian"}, noise=0.5)
    episodes = create_sampler(spec).sample(20_000, Generators(0, "test", 0, "cpu"))
    errors = {
        penalty: half_squared_error(
            zoo.create_solver("ridge", d_x=5, d_y=1, penalty=penalty).predict_query(
                episodes.x, episodes.y
            ),
            episodes.target[:, -1],
        ).mean()
        for penalty in (0.025, 0.25, 2.5)
    }
    assert min(errors, key=lambda penalty: errors[penalty]) == 0.25


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"d_x": 5, "d_y": 1, "num_context": 7},
        {"inputs": {"name": "gaussian", "variance": 2.0}, "noise": 0.7},
        {"function": {"scale": 2.0}, "distractors": {"count": 4, "scale": 1.5}, "noise": 0.3},
        {"function": {"name": "linear_drift", "rho": 0.8, "scale": 2.0}, "d_x": 4, "d_y": 2},
        {  # few dimensions, so that pairs of examples weigh much
            "d_x": 2,
            "num_context": 8,
            "inputs": {"name": "gaussian"},
            "function": {"name": "linear_drift", "rho": 0.9},
            "distractors": {"count": 6, "scale": 0.5},
            "noise": 0.2,
        },
    ],
)
def test_closed_form_agrees_with_monte_carlo(settings: dict[str, object]) -> None:
    spec = EpisodeSpec(**settings)
    theory = linear_moments(spec)
    assert theory is not None
    episodes = create_sampler(spec).sample(40_000, Generators(1, "test", 0, "cpu"))
    forgetting = 0.9 if isinstance(spec.function, LinearDrift) else 1.0
    best = optimal_step_size(theory, forgetting)
    for step_size in (0.5 * best, best, 1.3 * best):
        solver = zoo.create_solver(
            "weighted_gradient_descent",
            d_x=spec.d_x,
            d_y=spec.d_y,
            step_size=step_size,
            forgetting=forgetting,
        )
        prediction = solver.predict_query(episodes.x, episodes.y)
        measured = mean_interval(half_squared_error(prediction, episodes.target[:, -1]))
        # Three standard errors: one of these cases in a hundred falls outside of two.
        assert measured.value == pytest.approx(
            expected_half_mse(theory, step_size, forgetting), abs=1.5 * measured.ci95
        )
        least = optimal_half_mse(theory, forgetting)
        assert expected_half_mse(theory, step_size, forgetting) >= least


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.9, 0.99, 1.0])
@pytest.mark.parametrize(("num_context", "num_distractors"), [(1, 0), (2, 0), (20, 0), (20, 7)])
def test_no_other_forgetting_is_better(rho: float, num_context: int, num_distractors: int) -> None:
    theory = LinearEpisodes(5, num_context, 1.0, 3.0, num_distractors=num_distractors, rho=rho)
    best = optimal_forgetting(theory)
    losses = [optimal_half_mse(theory, i / 2000) for i in range(2001)]
    assert optimal_half_mse(theory, best) <= min(losses) + 1e-12
    assert (best == 1.0) == (rho in (0.0, 1.0) or num_context == 1)


def test_closed_form_has_the_known_values() -> None:
    uniform = LinearEpisodes(d_x=10, num_context=10, input_variance=1 / 12, input_kurtosis=1.8)
    assert optimal_half_mse(uniform) == pytest.approx(0.2062, abs=5e-5)
    assert expected_half_mse(uniform, 0.0) == pytest.approx(0.4167, abs=5e-5)
    for num_context, value in [(20, 0.548), (40, 0.328)]:
        wide = LinearEpisodes(
            d_x=10, num_context=num_context, input_variance=1 / 3, input_kurtosis=1.8
        )
        assert optimal_half_mse(wide) == pytest.approx(value, abs=5e-4)


def test_closed_form_refuses_impossible_episodes() -> None:
    with pytest.raises(ValueError, match="input_variance must be positive, got 0"):
        LinearEpisodes(d_x=1, num_context=1, input_variance=0, input_kurtosis=3)
    with pytest.raises(ValueError, match="num_distractors must be from 0 to 4.*got 5"):
        LinearEpisodes(d_x=1, num_context=5, input_variance=1, input_kurtosis=3, num_distractors=5)
