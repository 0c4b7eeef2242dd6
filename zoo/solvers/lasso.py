"""Sparse linear regression."""

from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor

from zoo.registry import PredictorConfig, register_solver
from zoo.solvers.moment import Moments, MomentSolver
from zoo.solvers.solver import EpisodeFacts, Grid
from zoo.solvers.tuning import log_grid

# A path ends after so many events for each coordinate; most need about one.
EVENTS_PER_COORDINATE = 10
# A coordinate whose inputs are, but for this fraction, combinations of those in use stays out.
INDEPENDENT = 1e-10
# Equal gradients, as of inputs of 1 and -1, are told apart by this fraction: the path could go in
# circles between them.
TIE_BREAK = 1e-10
# The objective may be above its minimum by this fraction of |Y|^2.
TOLERANCE = 1e-6
# float64 numbers that are worked on together; they stay in the processor's cache.
NUMBERS_IN_CACHE = 2**18


class LassoConfig(PredictorConfig):
    """Arguments of `lasso`, explained at `Lasso`."""

    penalty: PositiveFloat


@register_solver("lasso", LassoConfig)
class Lasso(MomentSolver):
    """Minimises 1/2 sum_i |x_i W - y_i|^2 + i lambda sum |W| after i examples.

    lambda (`penalty`) belongs to the mean over examples, as `alpha` in scikit-learn and in Garg et
    al. (arXiv 2208.01066), so that it means the same at every prefix. The path of minima for a
    falling penalty is piecewise linear; it is followed from W = 0 to lambda (Osborne et al., 2000;
    Efron et al., 2004), so the result is exact. Where the duality gap does not show that, above
    1e-6 of |Y|^2, predictions are NaN.
    """

    def __init__(self, config: LassoConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.penalty = config.penalty

    @classmethod
    def grid(cls, facts: EpisodeFacts) -> Grid:
        # Without noise the error falls with the square of the penalty: the least one leaves 2e-12,
        # and for smaller ones rounding hides on a few episodes whether the result is exact.
        return {"penalty": log_grid(1e-6, 1e2, 25, facts.input_variance)}

    @classmethod
    def stands_beside(cls, facts: EpisodeFacts) -> bool:
        return facts.family == "sparse_linear"

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"penalty": 0.1}

    def weights(self, moments: Moments) -> Tensor:
        *contexts, _, d_y = moments.B.shape
        penalty = (self.penalty * moments.num_seen)[..., None].expand(*contexts, d_y)
        A = moments.A[..., None, :, :].expand(*contexts, d_y, self.d_x, self.d_x)
        problems = A.reshape(-1, *A.shape[-2:]), moments.B.mT.reshape(-1, self.d_x)
        parts = (
            torch.split(part, max(1, NUMBERS_IN_CACHE // self.d_x**2))
            for part in (*problems, penalty.reshape(-1))
        )
        W = torch.cat([_follow_path(*part) for part in zip(*parts, strict=True)])
        W = W.view(*contexts, d_y, self.d_x).mT
        gap = _duality_gap(moments.A, moments.B, moments.y_squares, penalty[..., 0], W)
        exact = gap.abs() <= TOLERANCE * moments.y_squares
        return W.masked_fill(~exact[..., None, None], torch.nan)

    def state_size(self, num_context: int) -> int:
        return super().state_size(num_context) + 1


def _follow_path(A: Tensor, b: Tensor, penalty: Tensor) -> Tensor:
    """The minima of 1/2 w A w - b w + penalty |w|_1, for problems side by side.

    At a penalty l the coordinates in use have gradients r = b - A w of size l, the others smaller
    ones. As l falls by t, w moves by t A_SS^-1 sign(r_S), until a gradient from outside reaches l
    or a weight in use reaches zero. M is A with the coordinates S exchanged: M (r_S, w_T) =
    (w_S, r_T). So both rates of change are M sign(r_S), and an event is one pivot.

    Args:
        A: (num, d, d).
        b: (num, d).
        penalty: (num,).

    Returns:
        w, (num, d).
    """
    diagonal = A.diagonal(dim1=1, dim2=2)
    scale = diagonal.amax(1)
    scale = torch.where(scale > 0, scale, 1.0)[:, None]
    M, r, penalty = A / scale[..., None], b / scale, penalty[:, None] / scale
    floor = INDEPENDENT * diagonal / scale
    exact_A, exact_b = M, r
    with torch.no_grad():
        w, sign, M = _reached(M, r, penalty, floor)
    used = sign != 0
    # What ties and rounding have left of the gradients in use. These are steps of Newton's method,
    # so that they also carry the gradients with respect to A and b.
    for _ in range(2):
        r = exact_b - (exact_A @ w[..., None])[..., 0]
        error = torch.where(used, r - penalty * sign, 0.0)
        w = w + torch.where(used, (M @ error[..., None])[..., 0], 0.0)
    return torch.where(w * sign > 0, w, 0.0)


def _reached(M: Tensor, r: Tensor, penalty: Tensor, floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the path is at the penalty (num, 1): w, the signs of the gradients in use, and M."""
    num = r.shape[1]
    coordinate = torch.arange(num, device=r.device)
    r = r * (1 + TIE_BREAK * torch.cos(coordinate.to(r.dtype)))
    w, sign = torch.zeros_like(r), torch.zeros_like(r)
    level = r.abs().amax(1, keepdim=True)
    for _ in range(EVENTS_PER_COORDINATE * num):
        rest = (level - penalty).clamp(min=0)
        if not rest.any():
            break
        used = sign != 0
        rate = (M @ sign[..., None])[..., 0]
        w_rate, r_rate = torch.where(used, rate, 0.0), torch.where(used, sign, rate)
        outside = ~used & (M.diagonal(dim1=1, dim2=2) > floor)
        until = [rest]  # the end comes first among equals
        for side in (1.0, -1.0):
            closing = 1 - side * r_rate
            time = (level - side * r).clamp(min=0) / closing
            until.append(torch.where(outside & (closing > 0), time, torch.inf))
        until.append(torch.where(sign * w_rate < 0, (-w / w_rate).clamp(min=0), torch.inf))
        time, event = torch.cat(until, dim=1).min(1, keepdim=True)
        w, r, level = w + time * w_rate, r - time * r_rate, level - time
        k = (event[:, 0] - 1) % num
        pivot = (coordinate == k[:, None]) & (event > 0) & (rest > 0)  # (num, d), one or none
        w = w.masked_fill(pivot, 0.0)
        sign = torch.where(pivot, torch.where(used, 0.0, r.sign()), sign)
        M = _exchange(M, k, pivot.to(M.dtype))
    return w, sign, M


def _exchange(M: Tensor, k: Tensor, e: Tensor) -> Tensor:
    """Solves y = M x for coordinate k (num,) of x, where e is its unit vector and not zero.

    The new matrix takes x with y in that coordinate to y with x in it. Doing it twice undoes it.
    """
    problem = torch.arange(len(M), device=M.device)
    row, column = M[problem, k], M[problem, :, k]  # (num, d)
    some = e.sum(1, keepdim=True)
    p = torch.where(some > 0, row.gather(1, k[:, None]), 1.0)
    return M - ((column + e) * some / p)[:, :, None] * (row - e)[:, None, :]


def _duality_gap(A: Tensor, B: Tensor, y_squares: Tensor, penalty: Tensor, W: Tensor) -> Tensor:
    """An upper bound of what the objective at W is above its minimum, (...).

    The dual point is the residual R = Y - X W, shrunk by s until |X^T R| is within the penalty.
    """
    gradient = B - A @ W
    W_B = (W * B).sum((-2, -1))
    residual_squares = y_squares - W_B - (W * gradient).sum((-2, -1))
    primal = residual_squares / 2 + penalty * W.abs().sum((-2, -1))
    largest = gradient.abs().amax((-2, -1))
    s = torch.where(largest > penalty, penalty / largest, 1.0)
    return primal - s * (y_squares - W_B) + s.square() / 2 * residual_squares
