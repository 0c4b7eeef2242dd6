"""Closed forms: the expected loss of one gradient step, and the step size and forgetting of least.

For x with independent coordinates of mean zero, variance s^2 and kurtosis k = E x^4 / s^4, weights
w ~ N(0, tau^2 I) whose correlation j positions apart is rho^j, label noise of variance sigma^2, m
of N labels, any, replaced by noise of variance nu^2, and the prediction
eta sum_i lambda^(i - 1) y_i (x_i . q) over the examples at distance i = 1 ... N from the query,
scored against the clean w . q of the query:

    E loss(eta, lambda) = 1/2 s^2 tau^2 d (1 - 2 eta s^2 b + eta^2 s^4 c)
    b = n/N sum_i lambda^(i - 1) rho^i,        n = N - m
    c = n (n - 1) / (N (N - 1)) sum_(i != j) lambda^(i + j - 2) rho^|i - j|
        + (n (d - 1 + k) + (n sigma^2 + m nu^2) / (s^2 tau^2)) / N sum_i lambda^(2 i - 2)

docs/mathematics.md derives it, with m = 0 where the weights drift. For vector targets the loss is
averaged over the coordinates, and the numbers are the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearEpisodes:
    """The moments of linear regression episodes that the closed forms need.

    Attributes:
        d_x: Width of an input, d.
        num_context: Number of examples, N.
        input_variance: s^2, of a coordinate of x.
        input_kurtosis: k = E x^4 / s^4; 1.8 if uniform, 3 if gaussian, 6 if laplace.
        weight_variance: tau^2, of an entry of the weights.
        noise_variance: sigma^2, of the label noise.
        num_distractors: m, labels that are replaced by noise.
        distractor_variance: nu^2, of what replaces them.
        rho: Weights j positions apart have the correlation rho^j; 1 if they do not drift.
    """

    d_x: int
    num_context: int
    input_variance: float
    input_kurtosis: float
    weight_variance: float = 1.0
    noise_variance: float = 0.0
    num_distractors: int = 0
    distractor_variance: float = 0.0
    rho: float = 1.0

    def __post_init__(self) -> None:
        for name in ("d_x", "num_context", "input_variance", "input_kurtosis", "weight_variance"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.num_distractors < self.num_context:
            raise ValueError(
                f"num_distractors must be from 0 to {self.num_context - 1}, one less than "
                f"num_context, got {self.num_distractors}"
            )
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho must be from 0 to 1, got {self.rho}")


def optimal_step_size(episodes: LinearEpisodes, forgetting: float = 1.0) -> float:
    """The eta that minimises the expected loss at the query; multiplies the gradient of the sum."""
    b, c = _terms(episodes, forgetting)
    return b / (episodes.input_variance * c)


def expected_half_mse(episodes: LinearEpisodes, step_size: float, forgetting: float = 1.0) -> float:
    """Expected 0.5*MSE at the query after one step of the given size from zero weights.

    Args:
        episodes: What the examples and the query are drawn from.
        step_size: eta.
        forgetting: lambda, as in `weighted_gradient_descent`; 1 for plain gradient descent.
    """
    b, c = _terms(episodes, forgetting)
    gain = step_size * episodes.input_variance
    return _half_mse_of_zero(episodes) * (1 - 2 * gain * b + gain**2 * c)


def optimal_half_mse(episodes: LinearEpisodes, forgetting: float = 1.0) -> float:
    """Expected 0.5*MSE at the query after one step of the optimal size."""
    return expected_half_mse(episodes, optimal_step_size(episodes, forgetting), forgetting)


def optimal_forgetting(episodes: LinearEpisodes) -> float:
    """The lambda that, with the step size best for it, minimises the expected loss at the query.

    1 where none is better, as without drift. The loss taken off, b^2 / c, has a single peak in
    lambda (seen on grids, not proved), so the search cuts off a third of what is left until that is
    below 1e-6.
    """

    def gain(forgetting: float) -> float:
        b, c = _terms(episodes, forgetting)
        return b**2 / c

    if episodes.rho in (0, 1):
        return 1.0
    low, high = 0.0, 1.0
    while high - low > 1e-6:
        third = (high - low) / 3
        if gain(low + third) > gain(high - third):
            high -= third
        else:
            low += third
    return high


def chebyshev_step_sizes(num_steps: int, smallest: float, largest: float) -> tuple[float, ...]:
    """Step sizes for `scheduled_gradient_descent`: the reciprocals of the Chebyshev nodes.

    Of all schedules they leave the smallest worst error when the eigenvalues of A lie between
    `smallest` and `largest`: 1 / T_k((largest + smallest) / (largest - smallest)) of the start, in
    every eigenvector.

    Raises:
        ValueError: Unless 0 < smallest < largest and num_steps is at least 1.
    """
    if not (0 < smallest < largest and num_steps >= 1):
        raise ValueError(
            f"a schedule needs 0 < smallest < largest and num_steps of at least 1, got {smallest}, "
            f"{largest} and {num_steps}"
        )
    angles = (math.pi * (j + 0.5) / num_steps for j in range(num_steps))
    middle, radius = (largest + smallest) / 2, (largest - smallest) / 2
    return tuple(1 / (middle + radius * math.cos(angle)) for angle in angles)


def best_step_sizes(num_steps: int, eigenvalues: Tensor) -> tuple[float, ...]:
    """Step sizes for `scheduled_gradient_descent` of least mean error over episodes.

    With zero start, no label noise and queries and weights of one variance in every direction, the
    expected 0.5*MSE after k steps is proportional to E sum_p prod_j (1 - eta_j lambda_p)^2 over the
    eigenvalues lambda_p of A. Of all polynomials of degree k that are 1 at zero the least has the
    zeros 1 / eta_j of the polynomial that is orthogonal in the measure sum_p lambda_p
    delta(lambda_p), as in the method of conjugate gradients. So no k sizes that are fixed
    beforehand, and no predictor sum_(j < k) c_j q^T A^j B with constant c_j, has a smaller error.
    Sizes that depend on the context do better: `conjugate_gradient`.

    Args:
        num_steps: k.
        eigenvalues: Of A in many episodes, of any shape.

    Raises:
        ValueError: If an eigenvalue is not finite, or num_steps is below 1 or above the number of
            different positive eigenvalues.
    """
    spectrum = eigenvalues.double().flatten().clamp(min=0)
    if not spectrum.isfinite().all():
        raise ValueError("eigenvalues must be finite")
    if not 1 <= num_steps <= len(set(spectrum[spectrum > 0].tolist())):
        raise ValueError(
            f"num_steps must be at least 1 and at most the number of different positive "
            f"eigenvalues, got {num_steps}"
        )
    # Lanczos on the diagonal matrix of the eigenvalues, each vector made orthogonal twice.
    jacobi = spectrum.new_zeros(num_steps, num_steps)
    v = spectrum.sqrt() / spectrum.sqrt().norm()
    V = v[None]
    for j in range(num_steps):
        w = spectrum * v
        jacobi[j, j] = w @ v
        for _ in range(2):
            w = w - (V @ w) @ V
        if j + 1 < num_steps:
            jacobi[j, j + 1] = jacobi[j + 1, j] = w.norm()
            v = w / w.norm()
            V = torch.cat([V, v[None]])
    return tuple((1 / torch.linalg.eigvalsh(jacobi)).tolist())


def optimal_preconditioner(
    covariance: Sequence[Sequence[float]],
    num_context: int,
    weight_variance: float = 1.0,
    noise_variance: float = 0.0,
) -> tuple[tuple[float, ...], ...]:
    """The Gamma of least expected error for one step of `preconditioned_gradient_descent`.

    Gamma = ((N + 1) Sigma + (tr Sigma + sigma^2 / tau^2) I)^-1 for inputs from N(0, Sigma), weights
    from N(0, tau^2 I) and label noise of variance sigma^2: the linear regression of the weights on
    X^T y. Without noise it is that of Ahn et al. (arXiv 2306.00297, theorem 1).

    Args:
        covariance: Sigma, (d_x, d_x).
        num_context: Number of examples, N.
        weight_variance: tau^2.
        noise_variance: sigma^2.
    """
    Sigma = torch.tensor(covariance, dtype=torch.float64)
    shift = Sigma.trace() + noise_variance / weight_variance
    Gamma = ((num_context + 1) * Sigma + shift * torch.eye(len(Sigma), dtype=Sigma.dtype)).inverse()
    return tuple(tuple(row) for row in Gamma.tolist())


def _half_mse_of_zero(episodes: LinearEpisodes) -> float:
    return 0.5 * episodes.input_variance * episodes.weight_variance * episodes.d_x


def _terms(episodes: LinearEpisodes, forgetting: float) -> tuple[float, float]:
    """b and c of the expected loss."""
    N, m = episodes.num_context, episodes.num_distractors
    n, rho = N - m, episodes.rho
    linear = pairs = squares = 0.0
    nearer = 0.0  # sum_(j < i) lambda^(j - 1) rho^(i - j)
    for i in range(1, N + 1):
        weight = forgetting ** (i - 1)
        linear += weight * rho**i
        pairs += 2 * weight * nearer
        squares += weight**2
        nearer = rho * (nearer + weight)
    noise = (n * episodes.noise_variance + m * episodes.distractor_variance) / (
        episodes.input_variance * episodes.weight_variance
    )
    of_pair = n * (n - 1) / (N * (N - 1)) if N > 1 else 0.0
    of_one = (n * (episodes.d_x - 1 + episodes.input_kurtosis) + noise) / N
    return n / N * linear, of_pair * pairs + of_one * squares
