"""Test-time training: mini-batches of gradient steps on a small network."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.ops.fast_weights.arguments import Method, Shapes, heads_first, state_type
from zoo.ops.fast_weights.chunks import causal_product, split
from zoo.ops.precision import without_autocast

Network = Literal["linear", "mlp"]
# W; W, b; or W_1, b_1, W_2, b_2. Matrices are (batch, heads, in, out), biases (batch, heads, out).
State = tuple[Tensor, ...]
Norm = tuple[Tensor, Tensor]

EPS = 1e-6  # of the layer norm, as published


def test_time_training(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    mini_batch: int,
    *,
    network: Network = "linear",
    norm: Norm | None = None,
    residual: bool = False,
    position_rates: Tensor | None = None,
    initial_state: Tensor | State | None = None,
    inclusive: bool = True,
    method: Method = "chunked",
) -> tuple[Tensor, Tensor | State]:
    """Gradient steps on 1/2 |f_S(k) - v|^2, all gradients of a mini-batch taken at its start.

    With S the state at the start of the mini-batch, the output at its t-th token is that of
    f at S - sum_{j <= t} rho_t beta_j grad_j(S): the tokens of the mini-batch *so far*. The next
    mini-batch starts where the last token of this one has come to. f_S(x) is

        S^T x                                    network="linear", the state a matrix
        W^T x + b                                network="linear", the state (W, b)
        W_2^T gelu(W_1^T x + b_1) + b_2          network="mlp", the state (W_1, b_1, W_2, b_2)

    then, if asked for, a layer norm over d_v, and x is added (`residual`). A sequence that ends
    within a mini-batch leaves the state that its last token has come to; a further call starts a
    new mini-batch there.

    Source: Sun et al. 2024 (arXiv 2407.04620); the published layers have norm, bias and residual.

    Args:
        q: Queries, (batch, length, heads, d_k).
        k: Keys, (batch, length, heads, d_k).
        v: Values, (batch, length, heads, d_v).
        beta: Rates, (batch, length, heads).
        mini_batch: Tokens in a mini-batch.
        network: `"linear"` or `"mlp"`.
        norm: Weight and bias of the layer norm, each (heads, d_v).
        residual: Whether the network's input is added to its output; d_k and d_v are equal then.
        position_rates: rho, (mini_batch,); ones unless given. Published: 1/t and a learned part.
        initial_state: As above, with batch and heads in front; needed but for a matrix, which is
            zero unless given.
        inclusive: Whether a token reads the state after it, or the one before it.
        method: `"chunked"`, or the reference `"loop"` over tokens, which differentiates f.

    Returns:
        Outputs (batch, length, heads, d_v), and the last state, in the form of the initial one.

    Raises:
        ValueError: If shapes do not fit each other or the network, the length or `mini_batch` is
            below 1, or network or method is unknown.
    """
    shapes = Shapes("test_time_training", method)
    shapes.check_heads(q, k, v)
    shapes.check("beta", beta, "batch", "length", "heads")
    if mini_batch < 1:
        raise ValueError(f"test_time_training: mini_batch must be at least 1, got {mini_batch}")
    if residual and q.shape[-1] != v.shape[-1]:
        raise ValueError(
            f"test_time_training: residual needs d_k = d_v, got {q.shape[-1]} and {v.shape[-1]}"
        )
    if norm is not None:
        shapes.check("the norm's weight", norm[0], "heads", "d_v")
        shapes.check("the norm's bias", norm[1], "heads", "d_v")
    if position_rates is not None and position_rates.shape != (mini_batch,):
        raise ValueError(
            f"test_time_training: position_rates must be ({mini_batch},), one for each token of a "
            f"mini-batch, got {tuple(position_rates.shape)}"
        )
    given = (initial_state,) if isinstance(initial_state, Tensor) else initial_state
    _check_state(shapes, network, given)
    out = v.dtype
    with without_autocast(v.device):
        dtype = state_type(q, k, v, beta, *(given or ()))
        q, k, v, beta = heads_first(dtype, q, k, v, beta)
        state = (shapes.start(None, v),) if given is None else tuple(p.to(dtype) for p in given)
        if norm is not None:
            norm = norm[0].to(dtype), norm[1].to(dtype)
        rho = q.new_ones(mini_batch) if position_rates is None else position_rates.to(dtype)
        run = _loop if method == "loop" else _chunked
        rows = []
        for q_c, k_c, v_c, beta_c in split(mini_batch, q, k, v, beta):
            rho_c = rho[: q_c.shape[2]]
            o, state = run(q_c, k_c, v_c, beta_c, rho_c, state, norm, residual, inclusive)
            rows.append(o)
        o = torch.cat(rows, 2).transpose(1, 2).to(out)
        whole = given is None or isinstance(initial_state, Tensor)
        return o, state[0] if whole else state


def _check_state(shapes: Shapes, network: str, state: State | None) -> None:
    names = {
        "linear": [("W", "d_k", "d_v"), ("b", "d_v")],
        "mlp": [
            ("W_1", "d_k", "hidden"),
            ("b_1", "hidden"),
            ("W_2", "hidden", "d_v"),
            ("b_2", "d_v"),
        ],
    }
    if network not in names:
        raise ValueError(f"test_time_training: network must be 'linear' or 'mlp', got {network!r}")
    if state is None and network == "linear":
        return
    allowed = (1, 2) if network == "linear" else (4,)
    if state is None or len(state) not in allowed:
        raise ValueError(
            f"test_time_training: the initial state of network={network!r} must have "
            f"{' or '.join(map(str, allowed))} tensors, got {0 if state is None else len(state)}"
        )
    for (name, *dimensions), tensor in zip(names[network], state, strict=False):
        shapes.check(name, tensor, "batch", "heads", *dimensions)


def _predict(state: State, x: Tensor, norm: Norm | None, residual: bool) -> Tensor:
    """f of one token (in,) of one head; the parts of the state without batch and heads."""
    first, *others = state
    z = x @ first
    if others:
        z = z + others[0]
    if len(others) == 3:
        z = F.gelu(z, approximate="tanh") @ others[1] + others[2]
    if norm is not None:
        z = F.layer_norm(z, z.shape, norm[0], norm[1], EPS)
    return x + z if residual else z


def _loop(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    rho: Tensor,
    state: State,
    norm: Norm | None,
    residual: bool,
    inclusive: bool,
) -> tuple[Tensor, State]:
    def loss(state: State, key: Tensor, value: Tensor, norm: Norm | None) -> Tensor:
        return 0.5 * (_predict(state, key, norm, residual) - value).square().sum()

    def predict(state: State, x: Tensor, norm: Norm | None) -> Tensor:
        return _predict(state, x, norm, residual)

    over_norm = None if norm is None else 0
    gradient: Callable[..., State] = _of_heads(torch.func.grad(loss), (0, 0, 0, over_norm))
    predicted: Callable[..., Tensor] = _of_heads(predict, (0, 0, over_norm))
    rows, now = [], state
    total = tuple(torch.zeros_like(part) for part in state)
    for t, (q_t, k_t, v_t, beta_t) in enumerate(
        zip(*(part.unbind(2) for part in (q, k, v, beta)), strict=True)
    ):
        if not inclusive:
            rows.append(predicted(now, q_t, norm))
        step = gradient(state, k_t, v_t, norm)
        total = tuple(
            sum_ + beta_t.reshape(*beta_t.shape, *[1] * (part.ndim - 2)) * part
            for sum_, part in zip(total, step, strict=True)
        )
        now = tuple(part - rho[t] * sum_ for part, sum_ in zip(state, total, strict=True))
        if inclusive:
            rows.append(predicted(now, q_t, norm))
    return torch.stack(rows, 2), now


def _of_heads(function: Callable[..., Any], axes: tuple[int | None, ...]) -> Callable[..., Any]:
    """Over heads, which have norms of their own, and over the batch, which has not."""
    return torch.vmap(torch.vmap(function, axes), (*axes[:-1], None))


def _chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    rho: Tensor,
    state: State,
    norm: Norm | None,
    residual: bool,
    inclusive: bool,
) -> tuple[Tensor, State]:
    """The tokens of a mini-batch at once: their steps as products with scores of keys."""
    steps = _Steps(beta, rho, inclusive)
    target = v - k if residual else v
    first, *others = state
    layers = [(first, others[0] if others else None)]
    if len(others) == 3:
        layers.append((others[1], others[2]))
    # Forward at the start of the mini-batch, then the gradient at what each layer puts out.
    inputs, z = [k], _affine(k, *layers[0])
    for W, b in layers[1:]:
        hidden = z
        inputs.append(F.gelu(hidden, approximate="tanh"))
        z = _affine(inputs[-1], W, b)
    gradients = [_gradient_of_loss(z, target, norm)]
    if len(layers) == 2:
        gradients.insert(0, (gradients[0] @ layers[1][0].mT) * _gelu_slope(hidden))
    # The queries, through weights that have moved.
    x, new = q, []
    for i, ((W, b), key, gradient) in enumerate(zip(layers, inputs, gradients, strict=True)):
        x = F.gelu(x, approximate="tanh") if i else x
        moved = steps.moved(x @ key.mT + (0 if b is None else 1), gradient)
        W_new, b_new = steps.last(W, b, key, gradient)
        new += [W_new] if b_new is None else [W_new, b_new]
        x = _affine(x, W, b) - moved
    if norm is not None:
        x = _layer_norm(x, norm)
    return x + q if residual else x, tuple(new)


class _Steps:
    """rho_t beta_j for the tokens j that token t reads."""

    def __init__(self, beta: Tensor, rho: Tensor, inclusive: bool) -> None:
        self.beta, self.rho, self.inclusive = beta, rho, inclusive

    def moved(self, products: Tensor, gradient: Tensor) -> Tensor:
        """sum_j rho_t beta_j products_tj gradient_j, (batch, heads, C, d)."""
        diagonal = 0 if self.inclusive else -1
        # The state before a token is that of the token before it.
        rho = self.rho if self.inclusive else self.rho.roll(1)
        scores = (products * rho[:, None] * self.beta[..., None, :]).tril(diagonal)
        return causal_product(scores, gradient, self.inclusive)

    def last(
        self, W: Tensor, b: Tensor | None, key: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Weights and bias after the last token."""
        weighted = self.rho[-1] * self.beta[..., None] * gradient  # (batch, heads, C, out)
        return W - key.mT @ weighted, None if b is None else b - weighted.sum(2)


def _affine(x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
    return x @ W if b is None else x @ W + b[:, :, None]


def _layer_norm(z: Tensor, norm: Norm) -> Tensor:
    weight, bias = norm
    return F.layer_norm(z, z.shape[-1:], eps=EPS) * weight[:, None] + bias[:, None]


def _gradient_of_loss(z: Tensor, target: Tensor, norm: Norm | None) -> Tensor:
    """Of 1/2 |norm(z) - target|^2 by z, (batch, heads, C, d_v)."""
    if norm is None:
        return z - target
    centred = z - z.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + EPS).rsqrt()
    z_hat = centred * scale
    g = (_layer_norm(z, norm) - target) * norm[0][:, None]
    return scale * (g - g.mean(-1, keepdim=True) - z_hat * (g * z_hat).mean(-1, keepdim=True))


def _gelu_slope(x: Tensor) -> Tensor:
    """Derivative of the tanh form of gelu."""
    c = 0.7978845608028654  # sqrt(2 / pi)
    t = torch.tanh(c * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t.square()) * c * (1 + 3 * 0.044715 * x.square())
