"""The GD-SSM layer of one step: a diagonal recurrence that collects a gradient.

Source: "State-space models can learn in-context by gradient descent", arXiv 2410.11687.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.layers.gd_ssm_weights import GDSSMWeights, Read, StepWeights, diagonal
from zoo.layers.recurrence import (
    CHUNK,
    Decay,
    Recurrence,
    decay_parameters,
    read_states,
    reset_decay,
)
from zoo.layers.tokens import windows_of_tokens
from zoo.ops.precision import without_autocast
from zoo.ops.scan import Method


class DescentLayer(nn.Module):
    """What GD-SSM layers do with their weights; a subclass has the parameters.

    The windows S_i = [s_{2i-1}; s_{2i}; s_{2i+1}] of an interleaved token sequence go into one or
    two recurrences (`Recurrence`), whose states start from zero and are read out (`GDSSMWeights`).

    Attributes:
        d_token: Width d of a token.
    """

    d_token: int
    D: nn.Parameter

    @abstractmethod
    def weights(self) -> GDSSMWeights:
        """The parameters by what they do."""

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of the state of one episode: Z_B, and Z_A if it exists."""
        return (1 if self.weights().A is None else 2, self.d_token, self.d_token)

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
        """The output at an input token (..., d_token) with no example before it: W_0 (D[2] x)."""
        with without_autocast(x.device):
            wide, weights = x.to(self._state_type(x)), self.weights()
            return weights.start(self.D[2].to(wide.dtype) * wide).to(x.dtype)

    def all_windows(self, S: Tensor, method: Method = "chunked") -> Tensor:
        """`forward` on windows S (3, N, batch, d_token) instead of tokens."""
        if method not in ("chunked", "loop"):
            raise ValueError(f"method must be 'chunked' or 'loop', got {method!r}")
        with without_autocast(S.device):
            dtype, weights = S.dtype, self.weights()
            S, recurrence = self._prepared(S, weights)
            if len(weights.steps) == 1 and method == "chunked":  # no state is needed twice
                o = weights.descend(self._asked(S), partial(recurrence.read_each, S))
            else:
                Z, outputs = recurrence.zero_state(S), []
                for part in S.split(CHUNK, dim=1):
                    states = recurrence.states(part, Z, method)  # (n, batch, R, d, d)
                    outputs.append(weights.descend(self._asked(part), _reader(states)))
                    Z = states[-1]
                o = torch.cat(outputs)  # (N, batch, d)
            return o.transpose(0, 1).to(dtype)

    def last_window(self, S: Tensor) -> Tensor:
        """The output of the last window alone, `all_windows(S)[:, -1]`, (batch, d_token)."""
        with without_autocast(S.device):
            dtype, weights = S.dtype, self.weights()
            S, recurrence = self._prepared(S, weights)
            read: Read = partial(recurrence.read_last, S)
            if len(weights.steps) > 1:  # the state is needed more than once
                read = _reader(recurrence.advance(recurrence.zero_state(S), S))
            return weights.descend(self._asked(S[:, -1]), read).to(dtype)

    def advance(self, Z: Tensor, S: Tensor) -> Tensor:
        """The state Z (batch, num_recurrences, d, d) after windows S (3, N, batch, d), N >= 0."""
        with without_autocast(S.device):
            S, recurrence = self._prepared(S, self.weights())
            return recurrence.advance(Z.to(S.dtype), S)

    def virtual_window(self, Z: Tensor, S: Tensor) -> Tensor:
        """The outputs of windows that are tried on a state and not added to it.

        Args:
            Z: State after the completed windows, (batch, num_recurrences, d, d).
            S: One window for each query, (3, num_query, batch, d).

        Returns:
            (num_query, batch, d).
        """
        with without_autocast(S.device):
            dtype, weights = S.dtype, self.weights()
            S, recurrence = self._prepared(S, weights)
            read = partial(recurrence.read_tried, Z.to(S.dtype), S)
            return weights.descend(self._asked(S), read).to(dtype)

    @torch.no_grad()
    def construct_(self, step_sizes: Sequence[float | Tensor], W_0: Tensor | None = None) -> None:
        """Sets the weights, in place, that make the layer gradient descent from W_0.

        Args:
            step_sizes: One for each step, a number or, in a layer with P, a matrix (d_x, d_x).
            W_0: Where descent starts, (d_y, d_x), in a layer that has a W_0; zero unless given.
        """
        for name, parameter in self.named_parameters():
            if not name.startswith("log_step"):
                parameter.zero_()  # with Lambda_re = 0 nothing decays
        weights = self.weights()
        weights.D[2] = 1
        weights.B.Q[0, 1] = 1
        if weights.A is not None:
            weights.A.Q[0, 0] = 1
        if weights.W_0 is not None and W_0 is not None:
            weights.W_0.copy_(W_0)
        for (C, E, P), eta in zip(weights.steps, step_sizes, strict=True):
            scale = 1.0 if isinstance(eta, Tensor) else eta
            C.fill_diagonal_(scale)
            if E is not None:
                diagonal(E).fill_(scale)
            if P is not None:
                P.fill_diagonal_(1)
                if isinstance(eta, Tensor):
                    P[: len(eta), : len(eta)] = eta

    def _prepared(self, S: Tensor, weights: GDSSMWeights) -> tuple[Tensor, Recurrence]:
        """Windows (3, N, batch, 1, d) and all recurrences, in the type of the state."""
        S = S.to(self._state_type(S)).unsqueeze(-2)
        recurrence = weights.B if weights.A is None else weights.B.beside(weights.A)
        return S, recurrence.to(S.dtype)

    def _asked(self, S: Tensor) -> Tensor:
        """v = S^T D of windows (3, ..., 1, d), (..., d)."""
        return (self.D.to(S.dtype) @ S.flatten(1)).view(*S.shape[1:-2], self.d_token)

    def _state_type(self, S: Tensor) -> torch.dtype:
        """The type of the state: that of tokens and weights, float32 at least."""
        dtype = torch.promote_types(S.dtype, self.D.dtype)
        return torch.promote_types(dtype, torch.float32)


def _reader(Z: Tensor) -> Read:
    """What reads the states Z (..., R, d, d)."""
    return lambda u: read_states(Z, u.unsqueeze(-2)).unbind(-2)


class GDSSMLayer(DescentLayer):
    """One layer: windowed multiplicative input, diagonal recurrence, multiplicative readout.

    For the windows S_i = [s_{2i-1}; s_{2i}; s_{2i+1}] of an interleaved token sequence

        U_i = S_i^T Q S_i                    input: cross products within the window
        Z_i = Lambda_bar * Z_{i-1} + U_i     elementwise decay of a matrix state, Z_0 = 0
        r_i = S_i^T D                        what the state is multiplied with
        o_i = C Z_i^T r_i

    with Lambda_bar[p, q] = exp(min(Lambda_re[p, q], 0) * exp(log_step[q])). The prediction is +o;
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
        self.Lambda_re, self.log_step = decay_parameters(decay == "elementwise", d_token)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the random start from torch's global generator."""
        nn.init.normal_(self.Q, std=self.scale_Q)
        nn.init.normal_(self.C, std=self.scale_C / math.sqrt(self.d_token))
        nn.init.normal_(self.D, std=self.scale_D)
        reset_decay(self.Lambda_re, self.log_step)

    def weights(self) -> GDSSMWeights:
        B = Recurrence(self.Q, self.Lambda_re, self.log_step)
        return GDSSMWeights(B, self.D, (StepWeights(self.C),))


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
