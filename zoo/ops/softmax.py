"""Softmax whose gradient does not depend on the number of threads."""

from typing import Any

import torch
from torch import Tensor


class _Softmax(torch.autograd.Function):
    """p = softmax(s) over the last dimension, with ds = p dp - p sum(p dp) written out."""

    generate_vmap_rule = True

    @staticmethod
    def forward(scores: Tensor) -> Tensor:
        return scores.softmax(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (p,) = ctx.saved_tensors
        weighted = p * gradients[0]
        return torch.addcmul(weighted, p, weighted.sum(-1, keepdim=True), value=-1)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        (p,) = ctx.saved_tensors
        weighted = p * tangents[0]
        return torch.addcmul(weighted, p, weighted.sum(-1, keepdim=True), value=-1)


def softmax(scores: Tensor) -> Tensor:
    """`scores.softmax(-1)` with a gradient whose last bits are the same for any number of threads.

    Those of torch's own kernel are not, on a CPU.

    Args:
        scores: (..., n).

    Returns:
        (..., n).
    """
    weights: Tensor = _Softmax.apply(scores)  # type: ignore[no-untyped-call]
    return weights
