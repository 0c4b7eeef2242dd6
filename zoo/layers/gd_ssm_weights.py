"""The weights of a GD-SSM layer by what they do, and the descent that they make.

Source: "State-space models can learn in-context by gradient descent", arXiv 2410.11687; free
readouts for each step and the learned start are ours.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from zoo.layers.recurrence import Recurrence

# From u (..., d) to Z_B^T u and, if there is one, Z_A^T u, (..., d) each.
Read = Callable[[Tensor], tuple[Tensor, ...]]


class StepWeights(NamedTuple):
    """The weights of one step.

    Attributes:
        C: What it adds of B to the prediction, (d, d).
        E: What it takes of A from the rest, (d, d), (d,) or a number; None for nothing.
        P: What preconditions it, (d, d); None for the identity.
    """

    C: Tensor
    E: Tensor | None = None
    P: Tensor | None = None


class GDSSMWeights(NamedTuple):
    """The weights of a layer: no copies, so what is written to them is written to the layer.

    From v = S_i^T D and p = 0, with Z_B and Z_A the states of the recurrences B and A,

        for j = k, ..., 1:    u = P_j v;    p <- p + C_j Z_B^T u;    v <- v - E_j Z_A^T u
        o_i = p + W_0 v

    where W_0 reads the first d_x coordinates and writes the last d_y.

    Attributes:
        B: The recurrence that collects sum_i x_i y_i^T.
        D: What of a window its states are asked with, (3,).
        steps: The steps, the first one first.
        A: The recurrence that collects sum_i x_i x_i^T; None where no step has an E.
        W_0: Where descent starts, (d_y, d_x); None for zero.
    """

    B: Recurrence
    D: Tensor
    steps: tuple[StepWeights, ...]
    A: Recurrence | None = None
    W_0: Tensor | None = None

    def descend(self, v: Tensor, read: Read) -> Tensor:
        """p + W_0 v after all steps.

        Args:
            v: What is asked, (..., d).
            read: Reads the states, once for each step.
        """
        added = []
        for C, E, P in reversed(self.steps):
            B_u, *A_u = read(v if P is None else linear(v, P.to(v.dtype)))
            added.append(linear(B_u, C.to(v.dtype)))
            if E is not None:
                E = E.to(v.dtype)
                v = v - (linear(A_u[0], E) if E.ndim == 2 else E * A_u[0])
        if self.W_0 is not None:
            added.append(self.start(v))
        return sum(added[1:], added[0])

    def start(self, v: Tensor) -> Tensor:
        """W_0 v in the coordinates of labels, (..., d); zero without a W_0."""
        if self.W_0 is None:
            return torch.zeros_like(v)
        d_y, d_x = self.W_0.shape
        return pad(linear(v[..., :d_x], self.W_0.to(v.dtype)), (v.shape[-1] - d_y, 0))

    def identifiable(self, d_x: int, d_y: int) -> "GDSSMWeights":
        """Those that the loss determines, up to the symmetries of their scales.

        Of C and Lambda_bar only the blocks that carry labels count: where d_y < d_x the other rows
        of C receive no gradient, and the other columns of the state no signal. E and P count where
        they carry inputs.
        """
        inputs, labels = slice(d_x), slice(-d_y, None)
        steps = (
            StepWeights(
                C[labels, labels],
                None if E is None else E[(inputs,) * E.ndim],
                None if P is None else P[inputs, inputs],
            )
            for C, E, P in self.steps
        )
        A = None if self.A is None else self.A.block(inputs, inputs)
        return self._replace(B=self.B.block(inputs, labels), steps=tuple(steps), A=A)

    def named(self) -> dict[str, Tensor]:
        """The weights by their names in figures and reports.

        The entries of C, E and P are counted from 1, and what belongs to Z_A ends in `_A`. One step
        from zero, without a P, has one of each kind: `Q`, `Lambda_bar`, `D`, `C`.
        """
        named = {"Q_B": self.B.Q, "Lambda_bar": self.B.Lambda_bar, "D": self.D}
        if self.A is not None:
            named |= {"Q_A": self.A.Q, "Lambda_bar_A": self.A.Lambda_bar}
        for kind in StepWeights._fields:
            of_kind = (getattr(step, kind) for step in self.steps)
            named |= {f"{kind}_{j}": weight for j, weight in enumerate(of_kind, start=1)}
        named["W_0"] = self.W_0
        found = {name: weight for name, weight in named.items() if weight is not None}
        if len(self.steps) == 1 and self.A is None and self.steps[0].P is None:
            return {name.removesuffix("_B").removesuffix("_1"): w for name, w in found.items()}
        return found


def diagonal(E: Tensor) -> Tensor:
    """The diagonal of a matrix; what is a diagonal or a number already as it is."""
    return E.diagonal() if E.ndim == 2 else E
