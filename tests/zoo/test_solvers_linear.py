"""Linear solvers against plain float64 references, one context at a time."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import zoo
from tests.conftest import MakePairs
from zoo.solvers.theory import best_step_sizes, chebyshev_step_sizes


def weights_of(name: str, x: Tensor, y: Tensor, **arguments: object) -> list[Tensor]:
    """The weights (batch, d_x, d_y) after 0, 1, ... examples, read off with unit inputs."""
    solver = zoo.create_solver(name, d_x=x.shape[2], d_y=y.shape[2], **arguments)
    state = solver.init_state(len(x), dtype=x.dtype)
    units = torch.eye(x.shape[2], dtype=x.dtype).expand(len(x), -1, -1)
    weights = [solver.predict(state, units)]
    for i in range(x.shape[1]):
        state = solver.observe(state, x[:, i : i + 1], y[:, i : i + 1])
        weights.append(solver.predict(state, units))
    return weights


def test_mean_and_averaging_divide_by_the_examples_so_far(make_pairs: MakePairs) -> None:
    x, y = make_pairs(3, 2, 6)
    means = zoo.create_solver("mean", d_x=3, d_y=2)(x, y)
    weights = weights_of("averaging", x, y)
    assert means[:, 0].abs().max() == 0
    assert weights[0].abs().max() == 0
    for i in range(1, 6):
        torch.testing.assert_close(means[:, i], y[:, :i].mean(1))
        torch.testing.assert_close(weights[i], x[:, :i].mT @ y[:, :i] / i)


def test_a_schedule_of_equal_steps_is_gradient_descent(make_pairs: MakePairs) -> None:
    x, y = make_pairs(3, 2, 6)
    plain = zoo.create_solver("gradient_descent", d_x=3, d_y=2, step_size=0.05, num_steps=3)
    solver = zoo.create_solver("scheduled_gradient_descent", d_x=3, d_y=2, step_sizes=(0.05,) * 3)
    torch.testing.assert_close(solver(x, y), plain(x, y))
    other = zoo.create_solver("scheduled_gradient_descent", d_x=3, d_y=2, step_sizes=[0.1, 0.02])
    W = torch.zeros(3, 3, 2, dtype=x.dtype)
    for step_size in (0.1, 0.02):
        W = W - step_size * x[:, :5].mT @ (x[:, :5] @ W - y[:, :5])
    torch.testing.assert_close(other.predict_query(x, y), (x[:, 5:] @ W)[:, 0])


def test_the_best_schedule_has_the_least_mean_error_of_all_polynomials() -> None:
    x = torch.rand(500, 6, 4, generator=torch.Generator().manual_seed(0)).double() - 0.5
    spectrum = torch.linalg.eigvalsh(x.mT @ x).clamp(min=0).flatten()
    for k in (1, 2, 3, 5):
        # 1 - sum_m c_m lambda^m, the c_m by least squares
        powers = torch.stack([spectrum**m for m in range(1, k + 1)], dim=1)
        fit = powers @ torch.linalg.lstsq(powers, torch.ones_like(spectrum)[:, None]).solution
        step_sizes = best_step_sizes(k, spectrum)
        left = torch.stack([1 - size * spectrum for size in step_sizes]).prod(0)
        torch.testing.assert_close(left, 1 - fit[:, 0], rtol=0, atol=1e-8)
    with pytest.raises(ValueError, match="different positive eigenvalues, got 3"):
        best_step_sizes(3, torch.tensor([0.0, 1.0, 2.0, 2.0]))
    with pytest.raises(ValueError, match="eigenvalues must be finite"):
        best_step_sizes(1, torch.tensor([1.0, torch.nan]))


def test_chebyshev_steps_leave_the_error_that_is_promised() -> None:
    step_sizes = chebyshev_step_sizes(4, smallest=0.5, largest=8.0)
    eigenvalues = np.linspace(0.5, 8.0, 2001)
    rest = np.prod([1 - step_size * eigenvalues for step_size in step_sizes], axis=0)
    promised = 1 / math.cosh(4 * math.acosh(8.5 / 7.5))
    assert np.abs(rest).max() == pytest.approx(promised, rel=1e-9)
    with pytest.raises(ValueError, match="0 < smallest < largest.*got 2.0, 1.0 and 3"):
        chebyshev_step_sizes(3, smallest=2.0, largest=1.0)


def test_the_preconditioner_multiplies_the_gradient_of_the_sum(make_pairs: MakePairs) -> None:
    x, y = make_pairs(3, 2, 5)
    Gamma = torch.tensor([[0.1, 0.02, 0.0], [0.0, 0.05, 0.01], [0.03, 0.0, 0.2]]).double()
    weights = weights_of(
        "preconditioned_gradient_descent", x, y, preconditioner=Gamma.tolist(), num_steps=2
    )
    W = torch.zeros(3, 3, 2, dtype=x.dtype)
    for _ in range(2):
        W = W - Gamma @ x.mT @ (x @ W - y)
    torch.testing.assert_close(weights[5], W)
    with pytest.raises(ValueError, match=r"3 rows of 3 numbers, got rows of \[3, 2\]"):
        zoo.create_solver(
            "preconditioned_gradient_descent",
            d_x=3,
            d_y=1,
            preconditioner=[[1.0, 0.0, 0.0], [0.0, 1.0]],
        )


def test_newton_follows_its_recursion_and_reaches_least_squares(make_pairs: MakePairs) -> None:
    x, y = make_pairs(3, 2, 8)
    W = weights_of("newton", x, y, num_steps=3)[8]
    for b in range(len(x)):
        A = (x[b].T @ x[b]).numpy()
        V = A / np.linalg.norm(A @ A.T, 2)
        for _ in range(3):
            V = V @ (2 * np.eye(3) - A @ V)
        np.testing.assert_allclose(W[b], V @ (x[b].T @ y[b]).numpy(), atol=1e-12)
    for some, all_of in zip(
        weights_of("newton", x, y, num_steps=60), weights_of("least_squares", x, y), strict=True
    ):
        torch.testing.assert_close(some, all_of, atol=1e-6, rtol=1e-6)


def test_ridge_with_a_penalty_below_rounding_is_still_finite(make_pairs: MakePairs) -> None:
    x, y = make_pairs(4, 2, 9)
    x[:, 1:] = x[:, :1]
    solver = zoo.create_solver("ridge", d_x=4, d_y=2, penalty=1e-18)
    expected = zoo.create_solver("least_squares", d_x=4, d_y=2).predict_query(x, y)
    # The label means are fitted; what rounding leaves in the other directions is not at the query.
    assert solver(x, y).isfinite().all()
    assert (solver.predict_query(x, y) - expected).abs().max() < 1.0


def test_evidence_finds_the_penalty_of_most_likely_labels(make_pairs: MakePairs) -> None:
    x, y = make_pairs(4, 2, 13, batch=4)
    y = x @ torch.randn(4, 4, 2, generator=torch.Generator().manual_seed(1)).double() + 0.5 * y
    solver = zoo.create_solver("ridge_evidence", d_x=4, d_y=2)
    prediction = solver.predict_query(x, y)
    for b in range(4):
        X, Y = x[b, :-1].numpy(), y[b, :-1].numpy()

        def log_evidence(penalty: float, X: np.ndarray = X, Y: np.ndarray = Y) -> float:
            K = X @ X.T + penalty * np.eye(12)
            variance = np.trace(Y.T @ np.linalg.solve(K, Y)) / Y.size
            return float(-Y.size * np.log(variance) - 2 * np.linalg.slogdet(K)[1])

        penalty = max(np.geomspace(1e-4, 1e4, 4001), key=log_evidence)
        W = np.linalg.solve(X.T @ X + penalty * np.eye(4), X.T @ Y)
        np.testing.assert_allclose(prediction[b], x[b, -1].numpy() @ W, atol=1e-3)


def test_least_squares_recovers_weights_at_float32_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 31, 10, generator=generator)
    y = x @ torch.randn(200, 10, 3, generator=generator)
    prediction = zoo.create_solver("least_squares", d_x=10, d_y=3)(x, y)
    torch.testing.assert_close(prediction[:, 15:], y[:, 15:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("by_rows", [False, True])
def test_kahan_matrices_are_seen_to_be_singular(by_rows: bool) -> None:
    # Their inner products have Cholesky factors without a small pivot, and a condition of 1e10.
    d, angle = 60, 1.2
    s, c = math.sin(angle), math.cos(angle)
    kahan = torch.diag(s ** torch.arange(d).double()) @ (
        torch.eye(d).double() - c * torch.ones(d, d).double().triu(1)
    )
    assert torch.linalg.cond(kahan) > 1e10
    assert kahan.diagonal().min() > 0.01 * kahan.diagonal().max()
    inputs = kahan.T if by_rows else kahan
    x = torch.cat([inputs, torch.ones(1, d).double() / d])[None]
    y = torch.ones(1, d + 1, 1, dtype=torch.float64)
    W = np.linalg.pinv(inputs.numpy(), rcond=1e-6) @ np.ones((d, 1))
    solver = zoo.create_solver("least_squares", d_x=d, d_y=1)
    for prediction in (solver.predict_query(x, y)[0], solver(x, y)[0, -1]):
        np.testing.assert_allclose(prediction, x[0, -1].numpy() @ W, rtol=1e-3)


def test_lasso_meets_the_conditions_of_its_minimum(make_pairs: MakePairs) -> None:
    x, y = make_pairs(5, 2, 20)
    weights = weights_of("lasso", x, y, penalty=0.3)
    assert weights[0].abs().max() == 0
    for i in (1, 4, 12, 20):
        gradient = x[:, :i].mT @ (y[:, :i] - x[:, :i] @ weights[i]) / i
        assert gradient.abs().max() < 0.3 + 1e-3
        chosen = weights[i] != 0
        assert (gradient - 0.3 * weights[i].sign())[chosen].abs().max() < 1e-3
    assert (weights[20] == 0).any()


@pytest.mark.parametrize("inputs", ["sign", "whole", "repeated_columns", "repeated_examples"])
def test_lasso_meets_the_conditions_where_gradients_are_equal(inputs: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 12, 6, generator=generator, dtype=torch.float64)
    if inputs == "sign":
        x = x.sign()
    elif inputs == "whole":
        x = (2 * x).round()
    elif inputs == "repeated_columns":
        x = x[..., :3].repeat(1, 1, 2)
    else:
        x = x[:, :3].repeat(1, 4, 1)
    y = torch.randint(-1, 2, (100, 12, 2), generator=generator).double()
    for penalty in (1e-5, 1e-2, 0.1):
        weights = weights_of("lasso", x, y, penalty=penalty)
        for i in (1, 5, 12):
            gradient = x[:, :i].mT @ (y[:, :i] - x[:, :i] @ weights[i]) / i
            assert gradient.abs().max() < penalty * (1 + 1e-4)
            chosen = weights[i] != 0
            assert (gradient - penalty * weights[i].sign())[chosen].abs().max() < 1e-4 * penalty


def test_lasso_agrees_with_scikit_learn(make_pairs: MakePairs) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = make_pairs(5, 1, 12)
    for penalty in (0.01, 0.2):
        prediction = zoo.create_solver("lasso", d_x=5, d_y=1, penalty=penalty)(x, y)
        for i in (3, 8, 11):
            lasso = linear_model.Lasso(alpha=penalty, fit_intercept=False, tol=1e-10)
            lasso.fit(x[0, :i].numpy(), y[0, :i, 0].numpy())
            expected = lasso.predict(x[0, i : i + 1].numpy())
            np.testing.assert_allclose(prediction[0, i], expected, atol=1e-4)


def test_online_rules_follow_their_formulas(make_pairs: MakePairs) -> None:
    x, y = make_pairs(3, 2, 6, batch=1)
    normalized = weights_of("normalized_lms", x, y, step_size=0.7)
    implicit = weights_of("longhorn", x, y, step_size=2.0)
    W_normalized = W_implicit = torch.zeros(3, 2, dtype=x.dtype)
    for i in range(6):
        x_i, y_i = x[0, i : i + 1], y[0, i : i + 1]
        W_normalized = W_normalized - 0.7 * torch.linalg.pinv(x_i) @ (x_i @ W_normalized - y_i)
        # The minimum of |W - W'|^2 + 2 |x W - y|^2, not the closed form.
        eye = torch.eye(3, dtype=x.dtype)
        W_implicit = torch.linalg.solve(eye + 2 * x_i.T @ x_i, W_implicit + 2 * x_i.T @ y_i)
        torch.testing.assert_close(normalized[i + 1][0], W_normalized)
        torch.testing.assert_close(implicit[i + 1][0], W_implicit)


def test_normalized_lms_ignores_an_input_of_zero(make_pairs: MakePairs) -> None:
    x, y = make_pairs(3, 2, 3)
    x[:, 1] = 0
    weights = weights_of("normalized_lms", x, y)
    assert torch.equal(weights[2], weights[1])
    torch.testing.assert_close(torch.einsum("bp,bpq->bq", x[:, 2], weights[3]), y[:, 2])


def test_recursive_least_squares_and_the_static_kalman_filter_are_ridge(
    make_pairs: MakePairs,
) -> None:
    x, y = make_pairs(4, 2, 30)
    expected = zoo.create_solver("ridge", d_x=4, d_y=2, penalty=0.4)(x, y)
    recursive = zoo.create_solver("recursive_least_squares", d_x=4, d_y=2, penalty=0.4)
    kalman = zoo.create_solver(
        "kalman_filter", d_x=4, d_y=2, transition=1.0, noise_variance=0.8, weight_variance=2.0
    )
    torch.testing.assert_close(recursive(x, y), expected)
    torch.testing.assert_close(kalman(x, y), expected)


def test_forgetting_discounts_examples_and_penalty(make_pairs: MakePairs) -> None:
    x, y = make_pairs(3, 2, 7)
    W = weights_of("recursive_least_squares", x, y, penalty=0.4, forgetting=0.8)[7]
    discount = 0.8 ** torch.arange(6, -1, -1, dtype=x.dtype)[:, None]
    A = x.mT @ (discount * x) + 0.8**7 * 0.4 * torch.eye(3, dtype=x.dtype)
    torch.testing.assert_close(W, torch.linalg.solve(A, x.mT @ (discount * y)))


def test_forgetting_stays_exact_in_a_long_stream(make_pairs: MakePairs) -> None:
    x, y = make_pairs(4, 1, 2000, batch=1)
    x = x * torch.tensor([1.0, 1.0, 0.1, 0.01], dtype=x.dtype)
    solver = zoo.create_solver("recursive_least_squares", d_x=4, d_y=1, penalty=0.1, forgetting=0.9)
    discount = 0.9 ** torch.arange(1998, -1, -1, dtype=x.dtype)[:, None]
    A = x[:, :-1].mT @ (discount * x[:, :-1])
    W = torch.linalg.solve(A, x[:, :-1].mT @ (discount * y[:, :-1]))
    expected = torch.einsum("bp,bpq->bq", x[:, -1], W)
    torch.testing.assert_close(solver.predict_query(x, y), expected, atol=1e-6, rtol=1e-6)


def test_the_kalman_filter_is_the_gaussian_posterior_mean(make_pairs: MakePairs) -> None:
    x, y = make_pairs(3, 2, 6)
    prediction = zoo.create_solver(
        "kalman_filter", d_x=3, d_y=2, transition=0.8, noise_variance=0.3, weight_variance=1.5
    )(x, y)
    steps = torch.arange(6)
    # cov(w_i, w_j) = s^2 rho^|i - j| I, so labels are one gaussian vector.
    covariance = 1.5 * 0.8 ** (steps[:, None] - steps).abs().double() * (x @ x.mT)
    noisy = covariance + 0.3 * torch.eye(6, dtype=x.dtype)
    for i in range(1, 6):
        gain = torch.linalg.solve(noisy[:, :i, :i], covariance[:, :i, i : i + 1])
        torch.testing.assert_close(prediction[:, i], (gain.mT @ y[:, :i])[:, 0])
    with pytest.raises(ValueError, match="transition 1 needs a noise_variance above 0"):
        zoo.create_solver("kalman_filter", d_x=3, d_y=1, transition=1.0, noise_variance=0.0)
