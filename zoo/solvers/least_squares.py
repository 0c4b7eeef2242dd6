"""Least squares and its relatives: ridge, ridge by evidence, Newton's iteration."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor

from zoo.registry import PredictorConfig, register_solver
from zoo.solvers.moment import Moments, MomentSolver
from zoo.solvers.nonfinite import as_asked, without_unusable
from zoo.solvers.online import Fraction
from zoo.solvers.solver import EpisodeFacts, Grid
from zoo.solvers.tuning import log_grid

# A singular value of the inputs below this fraction of the largest counts as zero: what float64
# moments can still tell from rounding.
RELATIVE_RANK_TOLERANCE = 1e-6

# Penalties that `ridge_evidence` looks at, as fractions of the largest eigenvalue of A.
EVIDENCE_RANGE = (1e-8, 1e4)
EVIDENCE_GRID = 49
EVIDENCE_SECTIONS = 40
EVIDENCE_TIE = 1e-6
# Distance of log penalties over which the slope of the evidence is compared.
EVIDENCE_SECANT = 1e-3

# Steps of Newton's iteration that change the smallest singular value above the tolerance; more
# change no bit.
NEWTON_STEPS = 90


@register_solver("least_squares", PredictorConfig)
class LeastSquares(MomentSolver):
    """The W of minimum norm among those that minimise sum_i |x_i W - y_i|^2: W = A^+ B.

    By Cholesky factors where they are safe: of A or, with fewer examples than coordinates, of the
    inner products of the inputs. Else by eigenvectors of A, where directions with less than 1e-6 of
    the largest singular value of the inputs are left out.
    """

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__(config.d_x, config.d_y)

    @classmethod
    def stands_beside(cls, facts: EpisodeFacts) -> bool:
        return facts.output == "value"

    def weights(self, moments: Moments) -> Tensor:
        A, B = moments.A, moments.B
        L, safe = _safe_cholesky(A)
        W = torch.cholesky_solve(B, L)
        if not safe.all():
            inverse = torch.linalg.pinv(A, rtol=RELATIVE_RANK_TOLERANCE**2, hermitian=True)
            W = torch.where(safe[..., -1:, None], W, inverse @ B)
        return W

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        if x.is_meta:
            return super().forward(x, y)
        num_dual = min(x.shape[1] - 1, self.d_x)
        x_dual, y_dual = x[:, : num_dual + 1], y[:, : num_dual + 1]
        prediction, safe = self._dual_prefixes(x_dual, y_dual[:, :-1])
        # One by one: nothing of an episode, not even its place, may show in the others' last bits.
        for b in (~safe).any(1).nonzero()[:, 0].tolist():
            by_moments = super().forward(x_dual[b : b + 1].clone(), y_dual[b : b + 1].clone())
            prediction[b] = torch.where(safe[b, :, None], prediction[b], by_moments[0])
        if num_dual == x.shape[1] - 1:
            return prediction
        return torch.cat([prediction, self._prefixes_from(num_dual + 1, x, y)], dim=1)

    def _dual_prefixes(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The predictions for n + 1 inputs from the n <= d_x labels before them.

        W_i = X_i^T (X_i X_i^T)^-1 Y_i, and the Cholesky factors of all X_i X_i^T are the leading
        blocks of one, L. With Z = L^-1 X x^T and V = L^-1 Y, prediction i is
        sum_(t < i) Z[t, i] V[t].

        Returns:
            Predictions (batch, n + 1, d_y), and which of them are good, (batch, n + 1) bool.
        """
        context_x, context_y, undefined = without_unusable(x[:, :-1], y)
        products = context_x @ x.double().mT  # (batch, n, n + 1)
        L, safe = _safe_cholesky(context_x @ context_x.mT)
        Z = torch.linalg.solve_triangular(L, products, upper=False)
        V = torch.linalg.solve_triangular(L, context_y, upper=False)
        prediction = (Z.triu(1).mT @ V).masked_fill(undefined[..., None], torch.nan)
        safe = torch.cat([safe.new_ones(len(x), 1), safe], dim=1)
        return as_asked(prediction, x), safe | undefined


class RidgeConfig(PredictorConfig):
    """Arguments of `ridge`, explained at `Ridge`."""

    penalty: PositiveFloat
    forgetting: Fraction = 1.0


@register_solver("ridge", RidgeConfig)
class Ridge(MomentSolver):
    """W = (A + lambda I)^-1 B after i examples.

    With lambda (`penalty`) = sigma^2 / tau^2 this is the posterior mean, and so the best of all
    predictors, for gaussian weights of variance tau^2 and gaussian label noise of variance sigma^2.

    With `forgetting` f below 1 the sums decay and the penalty does not: A = sum_j f^(i-j) x_j x_j^T
    and B = sum_j f^(i-j) x_j y_j^T, as in MesaNet (arXiv 2506.05233).

    Where lambda is below 1e-10 of the largest eigenvalue of A, eigenvalues below 1e-12 of it count
    as zero, and their directions are left out, as in `least_squares`.
    """

    def __init__(self, config: RidgeConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.penalty = config.penalty
        self.forgetting = config.forgetting

    @classmethod
    def known(cls, facts: EpisodeFacts, given: Mapping[str, Any]) -> dict[str, Any]:
        """sigma^2 / tau^2, where weights and noise are as the posterior mean assumes."""
        told = facts.clean and facts.rho is None and facts.noise_variance > 0
        if not told or facts.weight_variance is None or given.get("forgetting", 1) != 1:
            return {}
        return {"penalty": facts.noise_variance / facts.weight_variance}

    @classmethod
    def grid(cls, facts: EpisodeFacts) -> Grid:
        if facts.rho is None:
            return {"penalty": log_grid(1e-10, 1e2, 37, facts.input_variance)}
        # Where weights drift a penalty matters, and both are fitted at once.
        return {
            "penalty": log_grid(1e-2, 1e1, 19, facts.input_variance),
            "forgetting": tuple(0.3 + 0.05 * i for i in range(15)),
        }

    @classmethod
    def stands_beside(cls, facts: EpisodeFacts) -> bool:
        return facts.output == "value" and facts.noise_variance > 0

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"penalty": 0.5, "forgetting": 0.9}

    def weights(self, moments: Moments) -> Tensor:
        A, B = moments.A, moments.B
        L, safe = _safe_cholesky(A + self.penalty * torch.eye(self.d_x).to(A))
        W = torch.cholesky_solve(B, L)
        if not safe.all():  # the penalty is lost in the rounding of A
            M, vectors = _diagonalized(A)
            reached = M @ torch.linalg.pinv(M, hermitian=True)  # the projection on what is not zero
            inverse = torch.linalg.pinv(M + self.penalty * reached, hermitian=True)
            W = torch.where(safe[..., -1:, None], W, vectors @ (inverse @ (vectors.mT @ B)))
        return W


@register_solver("ridge_evidence", PredictorConfig)
class RidgeEvidence(MomentSolver):
    """Ridge whose penalty is chosen in every context by the evidence (MacKay, 1992).

    Under y ~ N(0, tau^2 (X X^T + lambda I)) for each coordinate of the labels, with tau^2 at its
    maximum, the log evidence after i examples is, up to constants,

        -d_y / 2 (i log Q + sum_j log(s_j + lambda) + (i - d_x) log lambda),
        Q = (|Y|^2 - sum_j |b_j|^2 / (s_j + lambda)) / lambda,

    with eigenvalues s_j of A and b_j the rows of B in its eigenvectors. lambda is shared by the
    coordinates of the labels; it is the best of a grid between 1e-8 and 1e4 times the largest
    eigenvalue, refined by golden sections. The smallest wins where the evidence is equal, as it is
    after one example.
    """

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__(config.d_x, config.d_y)

    def weights(self, moments: Moments) -> Tensor:
        s, vectors = torch.linalg.eigh(moments.A.detach())
        s = s.clamp(min=0)  # (..., d_x)
        M = _in_basis(moments.A, s, vectors)
        moments = moments._replace(A=M, B=vectors.mT @ moments.B)
        log_penalty = self._choose(s, Moments(*(part.detach() for part in moments)))
        W: Tensor = vectors @ _shrunk(moments, self._refine(moments, log_penalty))[0]
        return W

    def _choose(self, s: Tensor, moments: Moments) -> Tensor:
        """log(lambda / the largest of s) of greatest evidence on the grid and beside its best."""
        A, B, y_squares, num_seen = moments
        b_squares = B.square().sum(-1)
        scale = _largest_of(A)
        n = num_seen[..., None]
        floor = _least_rest(y_squares)[..., None]

        def cost(log_penalty: Tensor) -> Tensor:
            """-2 / d_y times the log evidence, (..., num), for log(lambda / scale) (..., num)."""
            penalty = scale[..., None] * log_penalty.exp()
            shifted = s[..., None, :] + penalty[..., None]  # (..., num, d_x)
            explained = (b_squares[..., None, :] / shifted).sum(-1)
            # Rounding may leave less than nothing of labels without noise.
            rest = torch.maximum(y_squares[..., None] - explained, floor)
            log_determinant = shifted.log().sum(-1) + (n - self.d_x) * penalty.log()
            return torch.addcmul(log_determinant, n, (rest / penalty).log())

        low, high = (math.log(bound) for bound in EVIDENCE_RANGE)
        grid = torch.linspace(low, high, EVIDENCE_GRID, dtype=A.dtype, device=A.device)
        costs = cost(grid.expand(*scale.shape, -1))
        # After one example the evidence is the same for all: rounding shall not choose.
        equal = costs <= costs.amin(-1, keepdim=True) + EVIDENCE_TIE
        best = grid[equal.int().argmax(-1)]
        return _golden_section(cost, best, (high - low) / (EVIDENCE_GRID - 1))

    def _refine(self, moments: Moments, log_penalty: Tensor) -> Tensor:
        """Two steps of Newton's method, through which gradients see how the choice would move.

        No step is taken where the evidence has no maximum: at the ends of the range, or flat.
        """

        def slope(moments: Moments, log_penalty: Tensor) -> Tensor:
            """The derivative of `cost` by log(lambda)."""
            W, penalty, explained = _shrunk(moments, log_penalty)
            rest = moments.y_squares - (W * moments.B).sum((-2, -1))
            rest = torch.where(rest > _least_rest(moments.y_squares), rest, torch.inf)
            of_labels = moments.num_seen * penalty * W.square().sum((-2, -1)) / rest
            return of_labels - explained

        constant = Moments(*(part.detach() for part in moments))
        h = EVIDENCE_SECANT
        left, right = (slope(constant, log_penalty + side) for side in (-h, h))
        curvature = (right - left) / (2 * h)
        maximum = (left < 0) & (right > 0) & (curvature > EVIDENCE_TIE)
        curvature = torch.where(maximum, curvature, torch.inf)
        for _ in range(2):
            log_penalty = log_penalty - slope(moments, log_penalty) / curvature
        return log_penalty

    def state_size(self, num_context: int) -> int:
        return super().state_size(num_context) + 1


class NewtonConfig(PredictorConfig):
    """Arguments of `newton`, explained at `Newton`."""

    num_steps: NonNegativeInt


@register_solver("newton", NewtonConfig)
class Newton(MomentSolver):
    """W = V_k B with V_j = V_(j-1) (2 I - A V_(j-1)), j = 1..num_steps, from V_0 = A / |A A^T|_2.

    Newton's iteration for the inverse of A (Schulz; Fu et al., arXiv 2310.17086): the error of
    every eigenvalue is squared in each step, and V_k approaches the pseudo-inverse. It keeps the
    eigenvectors of A, so it is done on the diagonal matrix of eigenvalues: otherwise it would
    double, step by step, what rounding leaves of directions without examples. Eigenvalues below
    1e-12 of the largest count as zero.
    """

    def __init__(self, config: NewtonConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.num_steps = config.num_steps

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"num_steps": 4}

    def weights(self, moments: Moments) -> Tensor:
        M, vectors = _diagonalized(moments.A)
        scale = _largest_of(M)[..., None, None]
        relative = M / scale
        V = relative
        for _ in range(min(self.num_steps, NEWTON_STEPS)):
            V = 2 * V - V @ relative @ V
        W: Tensor = vectors @ (V @ (vectors.mT @ moments.B)) / scale
        return W


class ConjugateGradientConfig(PredictorConfig):
    """Arguments of `conjugate_gradient`, explained at `ConjugateGradient`."""

    num_steps: NonNegativeInt


@register_solver("conjugate_gradient", ConjugateGradientConfig)
class ConjugateGradient(MomentSolver):
    """k (`num_steps`) steps of conjugate gradients for A W = B from W = 0 (Hestenes, Stiefel 1952).

    For each column b of B the w among the combinations of b, A b, ..., A^(k-1) b that minimises
    sum_i (x_i w - y_i)^2. Its step sizes depend on the context, so it does better than any schedule
    that is fixed beforehand. Once the gradient is below 1e-12 of b, w is the solution and stays.
    """

    def __init__(self, config: ConjugateGradientConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.num_steps = config.num_steps

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"num_steps": 2}

    def weights(self, moments: Moments) -> Tensor:
        A, B = moments.A, moments.B
        W, rest, direction = torch.zeros_like(B), B, B
        squares = start = B.square().sum(-2, keepdim=True)  # (..., 1, d_y)
        for _ in range(self.num_steps):
            going = squares > RELATIVE_RANK_TOLERANCE**4 * start
            image = A @ direction
            curvature = torch.where(going, (direction * image).sum(-2, keepdim=True), 1.0)
            size = torch.where(going, squares, 0.0) / curvature
            W = W + size * direction
            rest = rest - size * image
            before, squares = torch.where(going, squares, 1.0), rest.square().sum(-2, keepdim=True)
            direction = rest + torch.where(going, squares, 0.0) / before * direction
        return W


def _golden_section(cost: Callable[[Tensor], Tensor], middle: Tensor, radius: float) -> Tensor:
    """Minimises `cost`, elementwise, from `middle` - `radius` to `middle` + `radius`, (...)."""
    ratio = (math.sqrt(5) - 1) / 2
    low, high = middle - radius, middle + radius
    for _ in range(EVIDENCE_SECTIONS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        costs = cost(torch.stack([left, right], dim=-1))  # (..., 2)
        smaller_left = costs[..., 0] < costs[..., 1]
        low, high = torch.where(smaller_left, low, left), torch.where(smaller_left, right, high)
    return (low + high) / 2


def _shrunk(moments: Moments, log_penalty: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(A + lambda I)^-1 B, lambda and the trace of (A + lambda I)^-1 A.

    The largest entry of A, which is diagonal, times the exponential of `log_penalty` is lambda.
    """
    penalty = _largest_of(moments.A) * log_penalty.exp()
    identity = torch.eye(moments.A.shape[-1]).to(moments.A)
    inverse = torch.linalg.inv(moments.A + penalty[..., None, None] * identity)
    return inverse @ moments.B, penalty, (inverse * moments.A).sum((-2, -1))


def _least_rest(y_squares: Tensor) -> Tensor:
    """The smallest sum of squares that is no rounding of the labels'."""
    precision = torch.finfo(y_squares.dtype)
    return precision.eps * y_squares.detach() + precision.tiny


def _largest_of(M: Tensor) -> Tensor:
    """The largest diagonal entry of M (..., n, n), and one where all are zero."""
    largest = M.diagonal(dim1=-2, dim2=-1).amax(-1)
    return torch.where(largest > 0, largest, 1.0)


def _diagonalized(A: Tensor) -> tuple[Tensor, Tensor]:
    """A in the basis of its eigenvectors, zero below the rank tolerance, and that basis."""
    s, vectors = torch.linalg.eigh(A.detach())
    floor = RELATIVE_RANK_TOLERANCE**2 * s.amax(-1, keepdim=True)
    return _in_basis(A, torch.where(s > floor, s, 0.0), vectors), vectors


def _in_basis(A: Tensor, s: Tensor, vectors: Tensor) -> Tensor:
    """The diagonal matrix M of eigenvalues s whose gradient is that of U^T A U, with U fixed.

    For every function f of matrices f(A) is U f(M) U^T, whether or not U moves with A. The
    gradients of eigenvectors, which equal eigenvalues do not have, are not needed.
    """
    return s.diag_embed() + vectors.mT @ (A - A.detach()) @ vectors


def leading_cholesky(A: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factors L of A (..., n, n), and which leading blocks have them, (..., n) bool.

    From the first block on that is not positive definite, rows of L are those of the identity.
    """
    L, info = torch.linalg.cholesky_ex(A)
    row = torch.arange(A.shape[-1], device=A.device)
    factored = (info[..., None] == 0) | (row < info[..., None] - 1)
    return _factors_of(A, factored, L), factored


def _safe_cholesky(A: Tensor) -> tuple[Tensor, Tensor]:
    """`leading_cholesky` of the blocks that are far from singular.

    Far means that the condition of the block of L is below a tenth of the reciprocal tolerance.
    """
    L, factored = leading_cholesky(A)
    safe = factored & (condition_bounds(L.detach()) < 0.1 / RELATIVE_RANK_TOLERANCE)
    return _factors_of(A, safe, L), safe


def _factors_of(A: Tensor, good: Tensor, L: Tensor) -> Tensor:
    """L, the Cholesky factors of A (..., n, n), with rows of the identity where not good, (..., n).

    They are factors anew, of A with such rows and columns: gradients of failed ones are NaN.
    """
    if good.all():
        return L
    both = good[..., :, None] & good[..., None, :]
    again: Tensor = torch.linalg.cholesky_ex(torch.where(both, A, torch.eye(A.shape[-1]).to(A))).L
    return again


def condition_bounds(L: Tensor) -> Tensor:
    """|L|_F |L^-1|_F, at least the condition, of the leading blocks of triangular (..., n, n).

    Pivots alone do not show a bad condition: those of Kahan's matrices are all large.
    """
    identity = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)
    inverse = torch.linalg.solve_triangular(L, identity.expand_as(L), upper=False)
    squares, of_inverse = (F.square().sum(-1).cumsum(-1) for F in (L, inverse))
    return (squares * of_inverse).sqrt()
