"""The arguments of a rule: their shapes, and the type that it computes in."""

from typing import Literal

import torch
from torch import Tensor

Method = Literal["chunked", "loop"]


class Shapes:
    """Checks that the dimensions of several arguments fit each other.

    Args:
        rule: Whose arguments they are, for messages.
        method: `"chunked"` or `"loop"`.

    Raises:
        ValueError: If the method is unknown.
    """

    def __init__(self, rule: str, method: str) -> None:
        if method not in ("chunked", "loop"):
            raise ValueError(f"{rule}: method must be 'chunked' or 'loop', got {method!r}")
        self.rule = rule
        self.sizes: dict[str, int] = {}

    def check(self, name: str, tensor: Tensor, *dimensions: str) -> None:
        """Raises ValueError unless the dimensions have these names, with the sizes known so far."""
        sizes = dict(zip(dimensions, tensor.shape, strict=False))
        known = {d: self.sizes.get(d, sizes.get(d, 0)) for d in dimensions}
        if tensor.ndim != len(dimensions) or sizes != known or known.get("length") == 0:
            wanted = [f"{d} = {self.sizes[d]}" if d in self.sizes else d for d in dimensions]
            raise ValueError(
                f"{self.rule}: {name} must be ({', '.join(wanted)}), with length of at least 1, "
                f"got {tuple(tensor.shape)}"
            )
        self.sizes |= sizes

    def check_heads(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        """The three that every rule has."""
        self.check("q", q, "batch", "length", "heads", "d_k")
        self.check("k", k, "batch", "length", "heads", "d_k")
        self.check("v", v, "batch", "length", "heads", "d_v")

    def start(self, initial_state: Tensor | None, like: Tensor) -> Tensor:
        """The state before the first token, (batch, heads, d_k, d_v); zero unless given."""
        if initial_state is not None:
            self.check("initial_state", initial_state, "batch", "heads", "d_k", "d_v")
            return initial_state.to(like.dtype)
        return like.new_zeros([self.sizes[d] for d in ("batch", "heads", "d_k", "d_v")])


def state_type(*tensors: Tensor | None) -> torch.dtype:
    """The widest type among the arguments, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        if tensor is not None:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def heads_first(dtype: torch.dtype, *tensors: Tensor) -> list[Tensor]:
    """(batch, length, heads, ...) as (batch, heads, length, ...) of a type."""
    return [tensor.to(dtype).transpose(1, 2) for tensor in tensors]
