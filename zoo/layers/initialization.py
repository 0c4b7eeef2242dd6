"""Starting values of state-space parameters."""

import math

import torch
from torch import Tensor


def hippo_normal(num_states: int) -> Tensor:
    """The normal part of HiPPO-LegS, "HiPPO-N", (num_states, num_states), float64.

    HiPPO-LegS has A[n, k] = -sqrt((2n + 1)(2k + 1)) for n > k, -(n + 1) for n = k and zero above;
    A + p p^T with p[n] = sqrt(n + 1/2) is normal: -1/2 on the diagonal plus a skew-symmetric
    matrix. Source: arXiv 2208.04933, section 4.
    """
    root = (torch.arange(num_states, dtype=torch.float64) + 0.5).sqrt()
    lower = torch.outer(root, root).tril(-1)
    return lower.mT - lower - torch.eye(num_states, dtype=torch.float64) / 2


def diagonal_hippo(d_state: int, num_blocks: int = 1) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a block-diagonal matrix of HiPPO-N, one of each pair.

    The matrix is real, so eigenvalues come in conjugate pairs; those with the negative imaginary
    part are returned.

    Args:
        d_state: Size of the matrix.
        num_blocks: Number of equal blocks on its diagonal.

    Returns:
        Lambda (d_state / 2,) and V (d_state, d_state / 2), complex128. The columns of V are
        orthonormal, so that its conjugate transpose is the matching half of the inverse.

    Raises:
        ValueError: If d_state does not divide into blocks of even size.
    """
    if num_blocks < 1 or d_state < 1 or d_state % (2 * num_blocks) != 0:
        raise ValueError(
            f"d_state must be a positive multiple of 2 * num_blocks, so that blocks have an even "
            f"size, got d_state {d_state} and num_blocks {num_blocks}"
        )
    size = d_state // num_blocks
    S = hippo_normal(size)
    skew = S - torch.diag(S.diagonal())
    # i times a skew-symmetric matrix is Hermitian: real eigenvalues, in rising order.
    imaginary, V = torch.linalg.eigh(-1j * skew)
    Lambda, V = torch.complex(S.diagonal(), imaginary)[: size // 2], V[:, : size // 2].contiguous()
    return Lambda.repeat(num_blocks), torch.kron(torch.eye(num_blocks, dtype=V.dtype), V)


def lecun_normal(*shape: int) -> Tensor:
    """Normal values, cut off at two standard deviations, of variance 1 / fan_in, float64.

    The fan-in is `shape[-2]`, as in the published code of S5, which takes its matrices transposed.
    """
    # Cutting off at +-2 reduces a standard deviation of 1 to 0.8796.
    std = 1 / (0.87962566103423978 * math.sqrt(shape[-2]))
    empty = torch.empty(shape, dtype=torch.float64)
    return torch.nn.init.trunc_normal_(empty, std=std, a=-2 * std, b=2 * std)
