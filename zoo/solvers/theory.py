"""Closed forms: the expected loss of one gradient step, and the step size that minimises it.

For x with independent coordinates of mean zero, variance s^2 and kurtosis k = E x^4 / s^4, weights
w ~ N(0, tau^2 I), label noise of variance sigma^2, m of N labels replaced by noise of variance
rho^2, and the prediction eta sum_i y_i (x_i . q) scored against the clean w . q:

    E loss(eta) = 1/2 s^2 tau^2 d (1 - 2 eta s^2 n + eta^2 s^4 c),        n = N - m
    c = n (n - 1 + d - 1 + k) + (n sigma^2 + m rho^2) / (s^2 tau^2)

With m = 0 and eta written as eta / N this is the formula in docs/mathematics.md, where it is
derived. For vector targets the loss is averaged over the coordinates, and the numbers are the same.
"""

from dataclasses import dataclass


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
        distractor_variance: rho^2, of what replaces them.
    """

    d_x: int
    num_context: int
    input_variance: float
    input_kurtosis: float
    weight_variance: float = 1.0
    noise_variance: float = 0.0
    num_distractors: int = 0
    distractor_variance: float = 0.0

    def __post_init__(self) -> None:
        for name in ("d_x", "num_context", "input_variance", "input_kurtosis", "weight_variance"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.num_distractors < self.num_context:
            raise ValueError(
                f"num_distractors must be from 0 to {self.num_context - 1}, one less than "
                f"num_context, got {self.num_distractors}"
            )


def optimal_step_size(episodes: LinearEpisodes) -> float:
    """The eta that minimises the expected loss at the query; multiplies the gradient of the sum."""
    return _num_genuine(episodes) / (episodes.input_variance * _quadratic_term(episodes))


def expected_half_mse(episodes: LinearEpisodes, step_size: float) -> float:
    """Expected 0.5*MSE at the query after one step of the given size from zero weights."""
    gain = step_size * episodes.input_variance
    relative = 1 - 2 * gain * _num_genuine(episodes) + gain**2 * _quadratic_term(episodes)
    return _half_mse_of_zero(episodes) * relative


def optimal_half_mse(episodes: LinearEpisodes) -> float:
    """Expected 0.5*MSE at the query after one step of the optimal size."""
    return expected_half_mse(episodes, optimal_step_size(episodes))


def _half_mse_of_zero(episodes: LinearEpisodes) -> float:
    return 0.5 * episodes.input_variance * episodes.weight_variance * episodes.d_x


def _num_genuine(episodes: LinearEpisodes) -> int:
    return episodes.num_context - episodes.num_distractors


def _quadratic_term(episodes: LinearEpisodes) -> float:
    n, d = _num_genuine(episodes), episodes.d_x
    noise = (
        n * episodes.noise_variance + episodes.num_distractors * episodes.distractor_variance
    ) / (episodes.input_variance * episodes.weight_variance)
    return n * (n - 1 + d - 1 + episodes.input_kurtosis) + noise
