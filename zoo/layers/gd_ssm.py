"""The GD-SSM layer of one step: a diagonal recurrence that collects a gradient.

Source: "State-space models can learn in-context by gradient descent", arXiv 2410.11687.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from zoo.layers.discretization import at_most_zero
from zoo.layers.tokens import windows_of_tokens
from zoo.ops.precision import without_autocast

Decay = Literal["elementwise", "none"]
Method = Literal["chunked", "loop"]

# Windows that attend to each other at once where nothing decays; longer contexts go chunk by chunk.
CHUNK = 64


class GDSSMLayer(nn.Module):
    """One layer: windowed multiplicative input, diagonal recurrence, multiplicative readout.

    For the windows S_i = [s_{2i-1}; s_{2i}; s_{2i+1}] of an interleaved token sequence

        U_i = S_i^T Q S_i                    input: cross products within the window
        Z_i = Lambda_bar * Z_{i-1} + U_i     elementwise decay of a matrix state, Z_0 = 0
        r_i = S_i^T D                        what the state is multiplied with
        o_i = C Z_i^T r_i

    with Lambda_bar[p, q] = exp(min(Lambda_re[p, q], 0) * exp(log_step[q])). Lambda_re is clamped
    because training lets it drift above zero, where a long stream overflows. The prediction is +o;
    the published code returns the same o and negates it afterwards.

    Args:
        d_token: Width d of a token.
        decay: `"elementwise"` learns Lambda_bar (d, d); `"none"` fixes it to one.
        scale_Q: Standard deviation of the random start of Q.
        scale_C: Standard deviation of the random start of C, times sqrt(d).
        scale_D: Standard deviation of the random start of D.

    The start must be small: the prediction is a product of Q, C and D, zero is a saddle of the
    loss, and from a large start the terms that do not matter take the signal down with them.
    """

    ssm_parameters: ClassVar[tuple[str, ...]] = ("Lambda_re", "log_step")

    def __init__(
        self,
        d_token: int,
        decay: Decay = "elementwise",
        scale_Q: float = 0.01,
        scale_C: float = 0.1,
        scale_D: float = 0.1,
    ) -> None:
        super().__init__()
        self.d_token = d_token
        self.scale_Q, self.scale_C, self.scale_D = scale_Q, scale_C, scale_D
        self.Q = nn.Parameter(torch.empty(3, 3))
        self.C = nn.Parameter(torch.empty(d_token, d_token))
        self.D = nn.Parameter(torch.empty(3))
        if decay == "elementwise":
            self.Lambda_re = nn.Parameter(torch.empty(d_token, d_token))
            self.log_step = nn.Parameter(torch.empty(d_token, 1))
        else:
            self.register_parameter("Lambda_re", None)
            self.register_parameter("log_step", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the random start from torch's global generator."""
        nn.init.normal_(self.Q, std=self.scale_Q)
        nn.init.normal_(self.C, std=self.scale_C / math.sqrt(self.d_token))
        nn.init.normal_(self.D, std=self.scale_D)
        if self.Lambda_re is not None:
            nn.init.constant_(self.Lambda_re, -0.5)
            nn.init.uniform_(self.log_step, math.log(1e-3), math.log(1e-1))

    @property
    def Lambda_bar(self) -> Tensor:
        """The factor by which each entry of the state decays from window to window, (d, d)."""
        if self.Lambda_re is None:
            return self.Q.new_ones(self.d_token, self.d_token)
        return self._log_Lambda_bar().exp()

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of the state of one episode."""
        return (self.d_token, self.d_token)

    def forward(self, tokens: Tensor, method: Method = "chunked") -> Tensor:
        """The outputs of all windows.

        Args:
            tokens: (batch, 2N + 1, d_token) with N >= 1.
            method: `"chunked"`, or the reference `"loop"` over windows.

        Returns:
            o_1, ..., o_N, (batch, N, d_token).

        Raises:
            ValueError: If the tokens do not form whole windows of width d_token.
        """
        if (
            tokens.ndim != 3
            or tokens.shape[1] < 3
            or tokens.shape[1] % 2 == 0
            or tokens.shape[2] != self.d_token
        ):
            raise ValueError(
                f"tokens must be (batch, 2N + 1, {self.d_token}) with N >= 1, "
                f"got {tuple(tokens.shape)}"
            )
        return self.all_windows(windows_of_tokens(tokens), method)

    def before_windows(self, x: Tensor) -> Tensor:
        """The output at an input token (..., d_token) with no example before it: zero."""
        return torch.zeros_like(x)

    def all_windows(self, S: Tensor, method: Method = "chunked") -> Tensor:
        """`forward` on windows S (3, N, batch, d_token) instead of tokens."""
        if method not in ("chunked", "loop"):
            raise ValueError(f"method must be 'chunked' or 'loop', got {method!r}")
        with without_autocast(S.device):
            dtype, S = S.dtype, self._in_state_type(S)
            Z = S.new_zeros(S.shape[2], self.d_token, self.d_token)
            run = self._loop if method == "loop" else self._chunk
            chunks = []
            for part in torch.split(S, CHUNK, dim=1):
                Z_r, Z = run(part, Z)
                chunks.append(Z_r)
            o = torch.cat(chunks) @ self.C.to(S.dtype).mT  # (N, batch, d)
            return o.transpose(0, 1).to(dtype)  # (batch, N, d)

    def last_window(self, S: Tensor) -> Tensor:
        """The output of the last window alone, `all_windows(S)[:, -1]`, (batch, d_token).

        Neither a state nor U_i is ever formed: with K_i = Lambda_bar^(N-i), the row vectors
        (S_i * r) K_i are one batched product over i, and

            (Z_N^T r)[q] = sum_i sum_a ((S_i[a] * r) K_i)[q] (Q S_i)[a, q].
        """
        with without_autocast(S.device):
            dtype, S = S.dtype, self._in_state_type(S)
            r = self._readout(S[:, -1])  # (batch, d)
            Q_S = self._mix(S)  # (3, N, batch, d)
            if self.Lambda_re is None:
                K_S = (S * r).sum(-1, keepdim=True)  # (3, N, batch, 1)
            else:
                num_after = torch.arange(S.shape[1] - 1, -1, -1, device=S.device)
                log_K = num_after[:, None, None] * self._log_Lambda_bar().to(S.dtype)
                K_S = (S * r) @ log_K.exp()  # (3, N, batch, d)
            Z_r = (K_S * Q_S).sum((0, 1))  # (batch, d)
            return (Z_r @ self.C.to(S.dtype).mT).to(dtype)

    def advance(self, Z: Tensor, S: Tensor) -> Tensor:
        """The state Z (batch, d, d) after the further windows S (3, N, batch, d), N >= 0."""
        with without_autocast(S.device):
            S = self._in_state_type(S)
            Z, Lambda_bar = Z.to(S.dtype), self.Lambda_bar.to(S.dtype)
            for U_i in self._inputs(S):
                Z = torch.addcmul(U_i, Lambda_bar, Z)
            return Z

    def virtual_window(self, Z: Tensor, S: Tensor) -> Tensor:
        """The outputs of windows that are tried on a state and not added to it.

        With Z_new = Lambda_bar * Z + S^T Q S, what is read out is
        Z_new^T r = (Lambda_bar * Z)^T r + sum_a (S[a] . r) (Q S)[a]: no new state is formed.

        Args:
            Z: State after the completed windows, (batch, d, d).
            S: One window for each query, (3, num_query, batch, d).

        Returns:
            (num_query, batch, d).
        """
        with without_autocast(S.device):
            dtype, S = S.dtype, self._in_state_type(S)
            r = self._readout(S)  # (num_query, batch, d)
            Z_r = torch.einsum("bpq,mbp->mbq", self.Lambda_bar.to(S.dtype) * Z.to(S.dtype), r)
            Z_r = Z_r + ((S * r).sum(-1, keepdim=True) * self._mix(S)).sum(0)
            return (Z_r @ self.C.to(S.dtype).mT).to(dtype)

    def _loop(self, S: Tensor, Z: Tensor) -> tuple[Tensor, Tensor]:
        """Z_i^T r_i for each window, (N, batch, d), and the last state: the reference."""
        Lambda_bar, Q, D = (part.to(S.dtype) for part in (self.Lambda_bar, self.Q, self.D))
        rows = []
        for S_i in S.unbind(1):  # (3, batch, d)
            Z = Lambda_bar * Z + torch.einsum("abp,ac,cbq->bpq", S_i, Q, S_i)
            r_i = torch.einsum("abp,a->bp", S_i, D)
            rows.append(torch.einsum("bpq,bp->bq", Z, r_i))
        return torch.stack(rows), Z

    def _chunk(self, S: Tensor, Z: Tensor) -> tuple[Tensor, Tensor]:
        """`_loop` for a few windows, with as little as possible done window by window."""
        r = self._readout(S)
        if self.Lambda_re is None:  # causal linear attention with three keys for each window
            Q_S = self._mix(S)
            scores = torch.einsum("jbp,aibp->abji", r, S).tril()
            # Zero times NaN is NaN: a window that is not finite stays out of the product, and
            # outputs are NaN from there on.
            largest = Q_S.detach().abs().amax((0, 3))
            undefined = (largest - largest).cumsum(0)  # (N, batch)
            Z_r = torch.einsum("abji,aibq->jbq", scores, Q_S.nan_to_num(0.0, 0.0, 0.0))
            Z_r = Z_r + torch.einsum("bpq,jbp->jbq", Z, r) + undefined[..., None]
            return Z_r, Z + torch.einsum("aibp,aibq->bpq", S, Q_S)
        Lambda_bar = self.Lambda_bar.to(S.dtype)
        rows = []
        for U_i, r_i in zip(self._inputs(S), r, strict=True):
            Z = torch.addcmul(U_i, Lambda_bar, Z)
            rows.append((r_i[:, None] @ Z)[:, 0])  # read out while it is in the cache
        return torch.stack(rows), Z

    def _inputs(self, S: Tensor) -> Iterator[Tensor]:
        """U_i = sum_a S_i[a] (Q S_i)[a]^T of one window after the other, (batch, d, d)."""
        columns, rows = S.permute(1, 2, 3, 0), self._mix(S).permute(1, 2, 0, 3)
        for columns_i, rows_i in zip(columns, rows, strict=True):
            yield columns_i @ rows_i

    def _readout(self, S: Tensor) -> Tensor:
        return (self.D.to(S.dtype) @ S.flatten(1)).view(S.shape[1:])

    def _mix(self, S: Tensor) -> Tensor:
        return torch.mm(self.Q.to(S.dtype), S.reshape(3, -1)).view(S.shape)

    def _log_Lambda_bar(self) -> Tensor:
        assert self.Lambda_re is not None
        assert self.log_step is not None
        return at_most_zero(self.Lambda_re) * self.log_step.squeeze(-1).exp()

    def _in_state_type(self, S: Tensor) -> Tensor:
        """The windows in the type of the state: that of tokens and weights, float32 at least."""
        dtype = torch.promote_types(S.dtype, self.Q.dtype)
        return S.to(torch.promote_types(dtype, torch.float32))


@torch.no_grad()
def load_published_parameters_(layer: GDSSMLayer, parameters: Mapping[str, Any]) -> GDSSMLayer:
    """Copies parameters of the published implementation into a layer, in place.

    Args:
        layer: A layer with `decay="elementwise"`.
        parameters: Arrays `Q (3, 3)`, `C (d, d)`, `D (3,)`, `Lambda_re (d, d)`, `log_step (d, 1)`,
            such as an opened .npz file; other keys are not read.

    Returns:
        The same layer. Its outputs are those of the published layer.

    Raises:
        ValueError: If an array is missing, has another shape or is not finite, or if Lambda_re is
            positive anywhere: the published layer then grows where this one is clamped.
    """
    arrays = {}
    for name, parameter in layer.named_parameters():
        if name not in parameters:
            raise ValueError(f"parameter {name!r} is missing, got {sorted(parameters)}")
        array = torch.as_tensor(parameters[name])
        if array.shape != parameter.shape:
            raise ValueError(f"{name} must be {tuple(parameter.shape)}, got {tuple(array.shape)}")
        if not array.isfinite().all():
            raise ValueError(f"{name} is not finite")
        arrays[name] = array
    if "Lambda_re" in arrays and (arrays["Lambda_re"] > 0).any():
        raise ValueError(
            f"Lambda_re must not be positive, got a maximum of {arrays['Lambda_re'].max():.3g}: "
            "the published layer would grow without bound where this one does not decay"
        )
    for name, parameter in layer.named_parameters():
        parameter.copy_(arrays[name])
    return layer
