"""Each algorithm is ahead on the episodes it was made for, by paired differences."""

import pytest
import torch
from torch import Tensor

import zoo
from zoo.metrics.errors import half_squared_error, mean_interval
from zoo.solvers.theory import (
    LinearEpisodes,
    expected_half_mse,
    optimal_preconditioner,
    optimal_step_size,
)
from zoo.solvers.tuning import log_grid, tune


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def query_errors(name: str, x: Tensor, y: Tensor, target: Tensor, **arguments: object) -> Tensor:
    solver = zoo.create_solver(name, d_x=x.shape[2], d_y=y.shape[2], **arguments)
    return half_squared_error(solver.predict_query(x, y), target[:, -1])


def assert_ahead(better: Tensor, worse: Tensor) -> None:
    """The mean paired difference of their errors is above zero, with its interval."""
    difference = mean_interval(worse - better)
    assert difference.value > difference.ci95, difference


def test_ridge_with_the_true_ratio_is_ahead_of_all_on_noisy_gaussian_episodes() -> None:
    d, sigma = 5, 0.5
    x, w = randn(20_000, 9, d), randn(20_000, d, 1, seed=1)
    target = x @ w
    y = target + sigma * randn(*target.shape, seed=2)
    best = query_errors("ridge", x, y, target, penalty=sigma**2)
    step = tune("gradient_descent", {"step_size": log_grid(0.01, 0.3, 8)}, x, y, target)
    others = {
        "zero": {},
        "mean": {},
        "averaging": {},
        "least_squares": {},
        "ridge_evidence": {},
        "gradient_descent": step,
        "newton": {"num_steps": 8},
        "lasso": {"penalty": 0.03},
        "knn": {},
        "normalized_lms": {},
        "longhorn": {"step_size": 1.0},
    }
    for name, arguments in others.items():
        part = slice(2000) if name == "lasso" else slice(None)
        worse = query_errors(name, x[part], y[part], target[part], **arguments)
        assert_ahead(best[part], worse)


def test_the_discrete_posterior_is_ahead_of_ridge_on_a_small_pool() -> None:
    d, sigma = 8, 0.5
    pool = randn(16, d, 1)
    chosen = torch.randint(16, (4000,), generator=torch.Generator().manual_seed(1))
    x = randn(4000, 17, d, seed=2)
    target = x @ pool[chosen]
    y = target + sigma * randn(*target.shape, seed=3)
    discrete = query_errors(
        "dmmse", x, y, target, pool=pool.double().tolist(), noise_variance=sigma**2
    )
    assert_ahead(discrete, query_errors("ridge", x, y, target, penalty=sigma**2))


def test_the_kalman_filter_is_ahead_under_drift_and_forgetting_comes_close() -> None:
    d, rho, sigma, length, batch = 4, 0.95, 0.3, 61, 3000
    x = randn(batch, length, d)
    steps = randn(batch, length, d, seed=1)
    w = [steps[:, 0]]
    for i in range(1, length):
        w.append(rho * w[-1] + (1 - rho**2) ** 0.5 * steps[:, i])
    target = (x * torch.stack(w, dim=1)).sum(-1, keepdim=True)
    y = target + sigma * randn(*target.shape, seed=2)
    forgetting = tune(
        "recursive_least_squares",
        {"forgetting": [0.7, 0.8, 0.85, 0.9, 0.95]},
        x[:500],
        y[:500],
        target[:500],
        fixed={"penalty": sigma**2},
    )
    x, y, target = x[500:], y[500:], target[500:]
    kalman = query_errors("kalman_filter", x, y, target, transition=rho, noise_variance=sigma**2)
    recursive = query_errors("recursive_least_squares", x, y, target, **forgetting)
    assert_ahead(kalman, recursive)
    assert recursive.mean() < 1.3 * kalman.mean()
    assert_ahead(recursive, query_errors("least_squares", x, y, target))


def test_lasso_is_ahead_of_least_squares_on_sparse_weights() -> None:
    d, batch = 20, 300
    w = randn(batch, d, 1) * (torch.arange(d)[:, None] < 3)
    x = randn(batch, 25, d, seed=1)
    target = x @ w
    y = target + 0.1 * randn(*target.shape, seed=2)
    lasso = query_errors("lasso", x, y, target, penalty=0.03)
    assert_ahead(lasso, query_errors("least_squares", x, y, target))
    assert_ahead(lasso, query_errors("ridge", x, y, target, penalty=0.01))


def test_the_closed_form_preconditioner_is_ahead_of_its_neighbours() -> None:
    d, num_context, sigma = 5, 12, 0.4
    scales = torch.tensor([2.0, 1.0, 1.0, 0.5, 0.25])
    x = randn(20_000, num_context + 1, d) * scales
    target = x @ randn(20_000, d, 1, seed=1)
    y = target + sigma * randn(*target.shape, seed=2)
    Gamma = torch.tensor(
        optimal_preconditioner(
            torch.diag(scales.double() ** 2).tolist(), num_context, noise_variance=sigma**2
        ),
        dtype=torch.float64,
    )

    def errors(Gamma: Tensor) -> Tensor:
        return query_errors(
            "preconditioned_gradient_descent", x, y, target, preconditioner=Gamma.tolist()
        )

    best = errors(Gamma)
    largest_only = torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.float64).diag()
    for other in (
        0.7 * Gamma,
        1.4 * Gamma,
        Gamma - 0.4 * largest_only * Gamma,
        Gamma + 0.5 * largest_only * Gamma,
        torch.diag(1 / (num_context * scales.double() ** 2)),
    ):
        assert_ahead(best, errors(other))
    step = tune("gradient_descent", {"step_size": log_grid(0.001, 0.2, 12)}, x, y, target)
    assert_ahead(best, query_errors("gradient_descent", x, y, target, **step))


@pytest.mark.parametrize("inputs", ["uniform", "gaussian", "laplace"])
@pytest.mark.parametrize("sigma", [0.0, 0.8])
def test_the_closed_form_holds_for_every_kurtosis(inputs: str, sigma: float) -> None:
    d, num_context, batch = 3, 5, 100_000
    generator = torch.Generator().manual_seed(4)
    shape = (batch, num_context + 1, d)
    if inputs == "uniform":
        x, kurtosis = (2 * torch.rand(shape, generator=generator) - 1) * 3**0.5, 1.8
    elif inputs == "gaussian":
        x, kurtosis = torch.randn(shape, generator=generator), 3.0
    else:  # the difference of two exponentials
        draws = torch.rand(2, *shape, generator=generator, dtype=torch.float64)
        x, kurtosis = ((draws[0].log() - draws[1].log()) / 2**0.5).float(), 6.0
    target = x @ randn(batch, d, 1, seed=5)
    y = target + sigma * randn(*target.shape, seed=6)
    theory = LinearEpisodes(
        d_x=d,
        num_context=num_context,
        input_variance=1.0,
        input_kurtosis=kurtosis,
        noise_variance=sigma**2,
    )
    step_size = optimal_step_size(theory)
    errors = query_errors("gradient_descent", x, y, target, step_size=step_size)
    # Against the zero predictor on the same episodes, whose scale is most of the variation.
    measured = mean_interval(errors - query_errors("zero", x, y, target))
    expected = expected_half_mse(theory, step_size) - expected_half_mse(theory, 0.0)
    # Three standard errors: one of these cases in a hundred falls outside of two.
    assert measured.value == pytest.approx(expected, abs=1.5 * measured.ci95)
    assert measured.ci95 < 0.03 * abs(expected)


@pytest.mark.parametrize(
    ("d_y", "members", "noise_variance", "scale"),
    [(1, 3_000, 0.25, 1.0), (3, 50, 0.25, 1.0), (1, 64, 1e-10, 1e3), (2, 200, 0.25, 1e-3)],
)
def test_dmmse_is_the_mean_over_members_weighed_example_by_example(
    d_y: int, members: int, noise_variance: float, scale: float
) -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    pool, x = normal(members, 4, d_y), scale * normal(50, 9, 4)
    y = x @ pool[torch.randint(members, (50,), generator=generator)]
    y = y + noise_variance**0.5 * normal(50, 9, d_y)
    y[7, 2] = torch.nan
    solver = zoo.create_solver(
        "dmmse", d_x=4, d_y=d_y, pool=pool.tolist(), noise_variance=noise_variance
    )
    expected, log_likelihood = [], torch.zeros(50, members, dtype=torch.float64)
    for i in range(9):
        W = torch.einsum("bm,mpq->bpq", log_likelihood.softmax(-1), pool)
        expected.append(torch.einsum("bp,bpq->bq", x[:, i], W))
        errors = torch.einsum("bp,mpq->bmq", x[:, i], pool) - y[:, i, None]
        log_likelihood = log_likelihood - errors.square().sum(-1) / (2 * noise_variance)
    near = {"rtol": 1e-6, "atol": 1e-7 * scale, "equal_nan": True}
    torch.testing.assert_close(solver(x, y), torch.stack(expected, 1), **near)
    assert solver(x, y)[7, 3:].isnan().all()
    torch.testing.assert_close(solver.predict_query(x, y), expected[-1], **near)
    state = solver.observe(solver.init_state(50), x[:, :5], y[:, :5])
    state = solver.observe(state, x[:, 5:-1], y[:, 5:-1])
    torch.testing.assert_close(solver.predict(state, x[:, -1:])[:, 0], expected[-1], **near)
