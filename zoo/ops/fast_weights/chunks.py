"""What the chunked forms are made of.

Tensors are (batch, heads, chunks, C, ...), with C tokens in a chunk. What happens within chunks is
computed for all of them at once; only the state goes from one to the next.

Running sums of log decays within a chunk, G where a token writes and R where it reads, end in d_k,
or in 1 for decays of a whole head; they are None where nothing decays. Factors exp(R_i - G_j) are
constants to autograd, which would go over them several times, and there are C for every token. The
gradients of R and G come through `carrying`.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from zoo.ops.scan import diagonal_scan


def in_chunks(size: int, *tensors: Tensor) -> list[Tensor]:
    """(batch, heads, length, ...) in chunks of `size` tokens at most, as even as can be.

    The last chunk is filled up with zeros: where key and log decay are zero, nothing is written.
    """
    length = tensors[0].shape[2]
    num_chunks = -(-length // size)
    C = -(-length // num_chunks)
    missing = num_chunks * C - length
    chunks = []
    for tensor in tensors:
        if missing:
            tensor = pad(tensor, (0, 0) * (tensor.ndim - 3) + (0, missing))
        chunks.append(tensor.unflatten(2, (num_chunks, C)).contiguous())
    return chunks


def joined(rows: Tensor, length: int) -> Tensor:
    """Chunks as (batch, heads, length, ...), without what fills up the last."""
    return rows.flatten(2, 3)[:, :, :length]


def running_sums(g: Tensor | None, inclusive: bool) -> tuple[Tensor | None, Tensor | None]:
    """G and R of log decays (batch, heads, chunks, C), or (batch, heads, chunks, C, d_k)."""
    if g is None:
        return None, None
    G = (g if g.ndim == 5 else g[..., None]).cumsum(3)
    return G, G if inclusive else pad(G[:, :, :, :-1], (0, 0, 1, 0))


def carrying(rows: Tensor, E: Tensor | None, sign: int = 1) -> Tensor:
    """rows times exp(sign (E - E)) = 1, with one of them a constant: all gradients of exp(sign E).

    Args:
        rows: (batch, heads, chunks, C, d).
        E: Running sums.
        sign: 1 where something is read, -1 where it is written.
    """
    return rows if E is None else (sign * (E - E.detach())).exp() * rows


def faded(rows: Tensor, E: Tensor | None) -> Tensor:
    """exp(E) * rows, with E as a constant."""
    return rows if E is None else E.detach().exp() * rows


def at_end(k: Tensor, G: Tensor | None) -> Tensor:
    """What is left of keys at the end of their chunk, with G as a constant."""
    return k if G is None else faded(k, G[:, :, :, -1:] - G)


def decay_factors(R: Tensor | None, G: Tensor | None, inclusive: bool) -> Tensor | None:
    """exp(R_i - G_j) for tokens j <= i, or j < i, and one for the others, as constants.

    Exponents are formed before they are raised, so that a strong decay overflows nowhere.

    Returns:
        (batch, heads, chunks, C, C, 1 or d_k), or None where nothing decays.
    """
    if R is None or G is None:
        return None
    # Powers of 2, for which torch has a faster kernel on a CPU than for those of e.
    R, G = math.log2(math.e) * R.detach(), math.log2(math.e) * G.detach()
    exponents = R[:, :, :, :, None] - G[:, :, :, None]
    # Those of tokens to come may be of any size: infinite factors would be NaN times zero.
    seen = torch.ones(G.shape[3], G.shape[3], dtype=G.dtype, device=G.device)
    return exponents.mul_(seen.tril(0 if inclusive else -1)[..., None]).exp2_()


def causal_scores(q: Tensor, k: Tensor, factors: Tensor | None, inclusive: bool) -> Tensor:
    """sum_p q_i[p] k_j[p] exp(R_i[p] - G_j[p]) for tokens j <= i, or j < i; zero for the others.

    Args:
        q: `carrying` R, (batch, heads, chunks, C, d_k).
        k: `carrying` -G, (batch, heads, chunks, C, d_k).
        factors: `decay_factors` of R and G.
        inclusive: Whether a token reads what it has written itself.

    Returns:
        (batch, heads, chunks, C, C).
    """
    diagonal = 0 if inclusive else -1
    if factors is None:
        return (q @ k.mT).tril(diagonal)
    if factors.shape[-1] == 1:
        return ((q @ k.mT) * factors[..., 0]).tril(diagonal)
    # As sums of products, since products of a matrix and one vector are slow to differentiate.
    products = k[:, :, :, None] * factors * q[:, :, :, :, None]
    return products.sum(-1).tril(diagonal)


def causal_product(scores: Tensor, rows: Tensor, inclusive: bool) -> Tensor:
    """scores @ rows, where a row that is not finite reaches no token before it.

    Zero times NaN is NaN, so it stays out of the product, and outputs are NaN from there on.

    Args:
        scores: Lower triangular, (..., C, C).
        rows: (..., C, d).
        inclusive: Whether a token reads its own row.
    """
    undefined = (0 * rows.detach()).sum(-1, keepdim=True)  # zero, or NaN
    rows = torch.where(undefined == 0, rows, 0)
    return scores @ rows + reaching(undefined, inclusive)


def reaching(undefined: Tensor, inclusive: bool) -> Tensor:
    """Zero for a token, or NaN from the first on that is undefined.

    Args:
        undefined: Zero or NaN, (..., C, 1).
        inclusive: Whether a token is reached by itself.
    """
    undefined = undefined.cumsum(-2)
    return undefined if inclusive else pad(undefined[..., :-1, :], (0, 0, 1, 0))


def summed(S: Tensor, added: Tensor, G: Tensor | None) -> tuple[Tensor, Tensor]:
    """S_{c+1} = exp(G_c) S_c + added_c, with G_c at the end of chunk c.

    Args:
        S: The state before the first chunk, (batch, heads, d_k, d_v).
        added: What each chunk adds, (batch, heads, chunks, d_k, d_v), of keys `at_end`, which knows
            no gradient of G_c.
        G: Running sums.

    Returns:
        The states before each chunk, (batch, heads, chunks, d_k, d_v), and after the last.
    """
    E = None if G is None else G[:, :, :, -1, :, None]
    added = carrying(added, E)
    factors = added.new_ones(1) if E is None else E.exp()
    if added.shape[2] == 1:
        return S[:, :, None], (factors * S[:, :, None] + added)[:, :, 0]
    if G is None:
        after = S[:, :, None] + added.cumsum(2)
    else:
        a, b = factors.expand_as(added).flatten(0, 1), added.flatten(0, 1)
        after = diagonal_scan(a, b, S.flatten(0, 1)).unflatten(0, S.shape[:2])
    # A copy, so that a state of a stream does not hold on to all the others.
    return torch.cat([S[:, :, None], after[:, :, :-1]], 2), after[:, :, -1].clone()


def mapped(S: Tensor, maps: Tensor, added: Tensor, G: Tensor | None) -> tuple[Tensor, Tensor]:
    """S_{c+1} = (diag(exp(G_c)) + maps_c) S_c + added_c, as `summed` otherwise.

    Args:
        S: As of `summed`.
        maps: (batch, heads, chunks, d_k, d_k), of keys `at_end`, as `added`.
        added: As of `summed`.
        G: Running sums.
    """
    E = added.new_zeros(1, 1) if G is None else G[:, :, :, -1, :, None]
    maps = carrying(maps + torch.diag_embed(E.detach().exp()[..., 0].expand(maps.shape[:-1])), E)
    states, sizes = [S.flatten(0, 1)], S.shape[:2]
    steps = (part.flatten(0, 1).unbind(1) for part in (maps, carrying(added, E)))
    for P, Z in zip(*steps, strict=True):
        states.append(torch.baddbmm(Z, P, states[-1]))
    return torch.stack(states[:-1], 1).unflatten(0, sizes), states[-1].unflatten(0, sizes)


def split(size: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """The chunks of (batch, heads, length, ...), the last one as long as what is left."""
    return list(zip(*(torch.split(tensor, size, dim=2) for tensor in tensors), strict=True))
