"""What the chunked forms are made of. Everything is (batch, heads, tokens of the chunk, ...)."""

import torch
from torch import Tensor


def before(G: Tensor) -> Tensor:
    """Running sums (batch, heads, tokens, ...) up to the token before: zero at the first."""
    return torch.cat([torch.zeros_like(G[:, :, :1]), G[:, :, :-1]], 2)


def reads(G: Tensor, inclusive: bool) -> Tensor:
    """Running sums of log decays up to the state that is read at each token."""
    return G if inclusive else before(G)


def causal_scores(q: Tensor, k: Tensor, R: Tensor, G: Tensor, inclusive: bool) -> Tensor:
    """sum_p q_i[p] k_j[p] exp(R_i[p] - G_j[p]) for tokens j <= i, or j < i; zero for the others.

    Exponents are formed before they are raised, so that a strong decay overflows nowhere.

    Args:
        q: (batch, heads, C, d_k).
        k: (batch, heads, C, d_k).
        R: Running sum of log decays where i reads, (batch, heads, C), or (batch, heads, C, d_k) for
            decays of every coordinate.
        G: Running sum where j writes, of the same shape.
        inclusive: Whether a token reads what it has written itself.

    Returns:
        (batch, heads, C, C).
    """
    length, diagonal = q.shape[2], 0 if inclusive else -1
    seen = torch.ones(length, length, dtype=torch.bool, device=q.device).tril(diagonal)
    if R.ndim == 3:
        exponents = R[..., :, None] - G[..., None, :]
        return (q @ k.mT).tril(diagonal) * exponents.masked_fill(~seen, -torch.inf).exp()
    exponents = R[:, :, :, None] - G[:, :, None]  # (batch, heads, C, C, d_k)
    factors = exponents.masked_fill(~seen[..., None], -torch.inf).exp()
    return torch.einsum("bhip,bhjp,bhijp->bhij", q, k, factors).tril(diagonal)


def causal_product(scores: Tensor, rows: Tensor, inclusive: bool) -> Tensor:
    """scores @ rows, where a row that is not finite reaches no token before it.

    Zero times NaN is NaN, so it stays out of the product, and outputs are NaN from there on.

    Args:
        scores: Lower triangular, (batch, heads, C, C).
        rows: (batch, heads, C, d).
        inclusive: Whether a token reads its own row.
    """
    largest = rows.detach().abs().amax(-1)
    undefined = (largest - largest).cumsum(-1)  # zero, or NaN
    undefined = reads(undefined, inclusive)
    return scores @ rows.nan_to_num(0.0, 0.0, 0.0) + undefined[..., None]


def advanced(S: Tensor, k: Tensor, rows: Tensor, G: Tensor) -> Tensor:
    """The state after a chunk that adds rows k_j u_j^T, under decays: (batch, heads, d_k, d_v)."""
    G = G if G.ndim == 4 else G[..., None]
    left = (G[:, :, -1:] - G).exp()  # of what j has written at the end of the chunk
    return G[:, :, -1].exp()[..., None] * S + (left * k).mT @ rows


def read(S: Tensor, q: Tensor, R: Tensor) -> Tensor:
    """What is read of the state before the chunk, decayed until then: (batch, heads, C, d_v)."""
    R = R if R.ndim == 4 else R[..., None]
    return (R.exp() * q) @ S


def delta_rows(k: Tensor, v: Tensor, beta: Tensor, G: Tensor, S: Tensor) -> Tensor:
    """The rows u_j with which a chunk of decayed delta steps adds k_j u_j^T.

    u_i = beta_i (v_i - k_i^T diag(e^{g_i}) S_{i-1}), and S_{i-1} is made of earlier rows: a lower
    triangular system, (I + tril(diag(beta) (K K^T * M), -1)) U = diag(beta) (V - a * (K S_0)).
    """
    beta = beta[..., None]
    mixing = beta * causal_scores(k, k, G, G, inclusive=False)
    rows: Tensor = torch.linalg.solve_triangular(
        mixing, beta * (v - read(S, k, G)), upper=False, unitriangular=True
    )
    return rows


def split(size: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """The chunks of (batch, heads, length, ...), the last one as long as what is left."""
    return list(zip(*(torch.split(tensor, size, dim=2) for tensor in tensors), strict=True))
