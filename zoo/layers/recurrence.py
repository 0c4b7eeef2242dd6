"""The recurrence of the GD-SSM: diagonal, with products of the tokens of a window as input.

Source: "State-space models can learn in-context by gradient descent", arXiv 2410.11687.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from zoo.layers.advance import AdvanceMethod, advance
from zoo.layers.discretization import at_most_zero
from zoo.ops.scan import Method, diagonal_scan

Decay = Literal["elementwise", "none"]

# Windows whose states are held at once; their number grows with the square of the width.
CHUNK = 32


class Recurrence(NamedTuple):
    """R recurrences side by side over windows S_i of three tokens.

        U_i = S_i^T Q S_i                    cross products within the window
        Z_i = Lambda_bar * Z_{i-1} + U_i     elementwise decay of a matrix state

    with Lambda_bar[p, q] = exp(min(Lambda_re[p, q], 0) * exp(log_step[q])). Lambda_re is clamped
    because training lets it drift above zero, where a long stream overflows.

    It is no module: a layer makes it in every call of its own parameters. Windows S are
    (3, N, batch, R, d), or (3, N, batch, 1, d) where all recurrences see the same; a state Z is
    (batch, R, d, d); what the states of all recurrences are asked with, u, is (N, batch, d).

    Attributes:
        Q: Weights of the products, (R, 3, 3); of one recurrence (3, 3).
        Lambda_re: (R, d, d), or (d, d); None where nothing decays.
        log_step: (R, d, 1), or (d, 1); None where nothing decays.
    """

    Q: Tensor
    Lambda_re: Tensor | None
    log_step: Tensor | None

    def beside(self, other: "Recurrence") -> "Recurrence":
        """This one and another one, R = 2."""
        pairs = zip(self, other, strict=True)
        return Recurrence._make(
            None if a is None or b is None else torch.stack([a, b]) for a, b in pairs
        )

    def to(self, dtype: torch.dtype) -> "Recurrence":
        """Of weights in that type."""
        return Recurrence._make(w if w is None else w.to(dtype) for w in self)

    def block(self, rows: slice, columns: slice) -> "Recurrence":
        """That of a block of the states."""
        if self.Lambda_re is None or self.log_step is None:
            return self
        return Recurrence(
            self.Q, self.Lambda_re[..., rows, columns], self.log_step[..., columns, :]
        )

    @property
    def log_Lambda_bar(self) -> Tensor | None:
        """The logarithm of the decay of each entry, (R, d, d) or (d, d); None for no decay."""
        if self.Lambda_re is None or self.log_step is None:
            return None
        return at_most_zero(self.Lambda_re) * self.log_step.mT.exp()

    @property
    def Lambda_bar(self) -> Tensor | None:
        """The factor by which each entry decays from window to window, as `log_Lambda_bar`."""
        return None if (log_Lambda_bar := self.log_Lambda_bar) is None else log_Lambda_bar.exp()

    def zero_state(self, S: Tensor) -> Tensor:
        """The state before the first window."""
        num_recurrences = 1 if self.Q.ndim == 2 else len(self.Q)
        return S.new_zeros(S.shape[2], num_recurrences, S.shape[4], S.shape[4])

    def states(self, S: Tensor, Z: Tensor, method: Method = "chunked") -> Tensor:
        """The states after each of the windows, from the state Z: (N, batch, R, d, d).

        That is N d^2 numbers for each recurrence, so callers go through long sequences part by
        part. The method `"loop"` is the reference.
        """
        Lambda_bar = self.Lambda_bar
        shape = Z.shape[1:]
        Lambda_bar = Z.new_ones(shape) if Lambda_bar is None else Lambda_bar.expand(shape)
        if method == "loop":
            Q, found = self.Q.view(-1, 3, 3), []
            for S_i in S.unbind(1):  # (3, batch, R, d)
                Z = Lambda_bar * Z + torch.einsum("abrp,rac,cbrq->brpq", S_i, Q, S_i)
                found.append(Z)
            return torch.stack(found)
        return diagonal_scan(Lambda_bar, self._inputs(S).transpose(0, 1), Z).transpose(0, 1)

    def advance(self, Z: Tensor, S: Tensor, method: AdvanceMethod = "pieces") -> Tensor:
        """The state after windows, N >= 0: Lambda_bar^N * Z + sum_i Lambda_bar^(N-i) * U_i.

        No state in between is made. The method `"plain"` is the reference where something decays.
        """
        log_Lambda_bar = self.log_Lambda_bar
        if log_Lambda_bar is not None:
            Q, log_Lambda_bar = self.Q.view(-1, 3, 3), log_Lambda_bar.view(Z.shape[1:])
            return advance(Z, S, Q, log_Lambda_bar, method)
        for part in torch.split(S, CHUNK, dim=1):  # sums over the window and over windows
            Z = Z + torch.einsum("anbrp,anbrq->brpq", part, self._mix(part))
        return Z

    def read_each(self, S: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        """Z_i^T u_i after each window, from the state zero, (N, batch, d) of each recurrence.

        Window by window, so that a state is read while it is in the cache.
        """
        Z, Lambda_bar, found = self.zero_state(S), self.Lambda_bar, []
        if Lambda_bar is None:
            return self._attend(S, u)
        # Batch and recurrences as one dimension: fewer calls in every product.
        shape = (-1, -1, Z.shape[1], -1)
        columns = S.expand(-1, *shape).flatten(2, 3).permute(1, 2, 3, 0)
        rows = self._mix(S).flatten(2, 3).permute(1, 2, 0, 3)
        asked = u.unsqueeze(-2).expand(shape).flatten(1, 2).unsqueeze(-2)
        for columns_i, rows_i, u_i in zip(columns, rows, asked, strict=True):
            Z = torch.addcmul((columns_i @ rows_i).view(Z.shape), Lambda_bar, Z)
            found.append(u_i @ Z.flatten(0, 1))
        return torch.stack(found).view(len(u), *Z.shape[:3]).unbind(2)

    def _attend(self, S: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        """`read_each` where nothing decays: causal linear attention, three keys a window."""
        Z, Q_S, found = self.zero_state(S), self._mix(S), []
        parts = S.split(CHUNK, dim=1), Q_S.split(CHUNK, dim=1), u.split(CHUNK)
        for S_i, Q_S_i, u_i in zip(*parts, strict=True):
            scores = torch.einsum("jbp,aibrp->abrji", u_i, S_i).tril()
            # Zero times NaN is NaN: a window that is not finite stays out of the product, and
            # outputs are NaN from there on.
            largest = Q_S_i.detach().abs().amax((0, 4))
            undefined = (largest - largest).cumsum(0)  # (n, batch, R)
            read = torch.einsum("abrji,aibrq->jbrq", scores, Q_S_i.nan_to_num(0.0, 0.0, 0.0))
            found.append(read + torch.einsum("brpq,jbp->jbrq", Z, u_i) + undefined[..., None])
            Z = Z + torch.einsum("aibrp,aibrq->brpq", S_i, Q_S_i)
        return torch.cat(found).unbind(2)

    def read_last(self, S: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        """Z_N^T u, u (batch, d), after the last window, from the state zero; as `read_each`.

        Neither a state nor U_i is ever formed: with K_i = Lambda_bar^(N-i), the row vectors
        (S_i * u) K_i are one batched product over i, and

            (Z_N^T u)[q] = sum_i sum_a ((S_i[a] * u) K_i)[q] (Q S_i)[a, q].
        """
        S_u, log_Lambda_bar = S.transpose(2, 3) * u, self.log_Lambda_bar  # (3, N, R or 1, batch, d)
        if log_Lambda_bar is None:
            K_S = S_u.sum(-1, keepdim=True)
        else:
            K_S = S_u @ powers(log_Lambda_bar, S.shape[1])
        return (K_S * self._mix(S).transpose(2, 3)).sum((0, 1)).unbind()

    def read_tried(self, Z: Tensor, S: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        """Z_i^T u_i after each window alone, tried on the state Z; as `read_each`.

        A window adds rank-three terms, so no new state is formed:
        Z_i^T u = (Lambda_bar * Z)^T u + sum_a (S_i[a] . u) (Q S_i)[a].
        """
        Lambda_bar = self.Lambda_bar
        if Lambda_bar is not None:
            Z = Lambda_bar * Z
        kept = torch.einsum("brpq,nbp->nbrq", Z, u)
        added = (S * u.unsqueeze(-2)).sum(-1, keepdim=True) * self._mix(S)
        return (kept + added.sum(0)).unbind(2)

    def _inputs(self, S: Tensor) -> Tensor:
        """U_i = sum_a S_i[a] (Q S_i)[a]^T, (N, batch, R, d, d)."""
        return S.permute(1, 2, 3, 4, 0) @ self._mix(S).permute(1, 2, 3, 0, 4)

    def _mix(self, S: Tensor) -> Tensor:
        """Q S_i, (3, N, batch, R, d)."""
        if self.Q.ndim == 2:
            return (self.Q @ S.flatten(1)).view(S.shape)
        return torch.einsum("rac,cnbrq->anbrq", self.Q, S)


def read_states(Z: Tensor, u: Tensor) -> Tensor:
    """Z^T u: states (..., d, d) asked with vectors (..., d), (..., d)."""
    return (u[..., None] * Z).sum(-2)  # many small products: faster than a batched one


def powers(log_Lambda_bar: Tensor, num_windows: int) -> Tensor:
    """Lambda_bar^(N-i) for i = 1, ..., N, (N, R, d, d), R = 1 for one of shape (d, d)."""
    num_after = torch.arange(num_windows - 1, -1, -1, device=log_Lambda_bar.device)
    return (num_after[:, None, None, None] * log_Lambda_bar).exp()


def decay_parameters(wanted: bool, *shape: int) -> tuple[nn.Parameter | None, nn.Parameter | None]:
    """Lambda_re and log_step of a `Recurrence` without values yet; None where nothing decays.

    Args:
        wanted: Whether something decays.
        shape: (d,), or (R, d) for R recurrences.
    """
    if not wanted:
        return None, None
    Lambda_re = nn.Parameter(torch.empty(*shape, shape[-1]))
    return Lambda_re, nn.Parameter(torch.empty(*shape, 1))


def reset_decay(Lambda_re: Tensor | None, log_step: Tensor | None) -> None:
    """Draws the random start of a decay: nearly none, with steps log-uniform in [0.001, 0.1]."""
    if Lambda_re is not None and log_step is not None:
        nn.init.constant_(Lambda_re, -0.5)
        nn.init.uniform_(log_step, math.log(1e-3), math.log(1e-1))
