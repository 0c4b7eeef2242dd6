"""What predictors with a GD-SSM layer have in common: windows of pairs, and streaming."""

import math
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.layers.gd_ssm import DescentLayer
from zoo.layers.tokens import widen, windows_of_pairs
from zoo.predictor import Predictor


class GDSSMState(NamedTuple):
    """What a GD-SSM remembers of the examples; its size does not grow.

    Attributes:
        Z: State after the completed windows, (batch, num_recurrences, d, d).
        x: Input of the newest example, whose window waits for the next input, (batch, d_x).
        y: Its label, (batch, d_y).
        num_seen: Number of examples seen.
    """

    Z: Tensor
    x: Tensor
    y: Tensor
    num_seen: int


class WindowedPredictor(Predictor):
    """One layer on the windows of x_1, y_1, ..., x_N, y_N, x_{N+1}.

    The prediction at position i + 1 is read out of the layer's output o_i; position 0 has no
    window. A subclass says how inputs and labels become tokens and how an output becomes a
    prediction.
    """

    token_layout = "interleaved"
    paper: str = "https://arxiv.org/abs/2410.11687"

    def __init__(self, d_x: int, d_y: int, layer: DescentLayer) -> None:
        super().__init__(d_x, d_y)
        self.layer = layer

    @abstractmethod
    def tokens(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of inputs (..., d_x) and of labels (..., d_y), at most d_token wide."""

    @abstractmethod
    def read_out(self, o: Tensor) -> Tensor:
        """Predictions (..., d_y) from outputs of the layer (..., d_token)."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        o = self._before_windows(x[:, :1])  # (batch, 1, d)
        if x.shape[1] > 1:
            windows = windows_of_pairs(*self.tokens(x, y))
            o = torch.cat([o, self.layer.all_windows(windows)], dim=1)  # (batch, N + 1, d)
        return self.checked(self.read_out(o))

    def predict_query(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        if x.shape[1] == 1:
            o = self._before_windows(x)[:, 0]
        else:
            o = self.layer.last_window(windows_of_pairs(*self.tokens(x, y)))
        return self.checked(self.read_out(o))

    def init_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> GDSSMState:
        device, dtype = self.state_options(batch_size, device, dtype)
        x = torch.zeros(batch_size, self.d_x, device=device, dtype=dtype)
        Z_dtype = torch.promote_types(dtype, torch.float32)
        Z = x.new_zeros(batch_size, *self.layer.state_shape, dtype=Z_dtype)
        return GDSSMState(Z, x, x.new_zeros(batch_size, self.d_y), 0)

    def observe(self, state: GDSSMState, x: Tensor, y: Tensor) -> GDSSMState:
        self.check_pairs(x, y, state)
        if x.shape[1] == 0:
            return state
        num_seen, newest = state.num_seen + x.shape[1], (x[:, -1], y[:, -1])
        if state.num_seen > 0:
            x = torch.cat([state.x[:, None], x], dim=1)
            y = torch.cat([state.y[:, None], y], dim=1)
        Z = self.layer.advance(state.Z, windows_of_pairs(*self.tokens(x, y)))
        return GDSSMState(Z, *newest, num_seen)

    def predict(self, state: GDSSMState, x_query: Tensor) -> Tensor:
        self.check_queries(state, x_query)
        if state.num_seen == 0:
            return self.checked(self.read_out(self._before_windows(x_query)))
        batch, num_query, _ = x_query.shape
        # A window for each query: batch and queries side by side, the query as second input.
        x = torch.stack([state.x[:, None].expand_as(x_query), x_query], dim=2).flatten(0, 1)
        y = state.y[:, None, None].expand(-1, num_query, 2, -1).flatten(0, 1)
        S = windows_of_pairs(*self.tokens(x, y))
        S = S.view(3, batch, num_query, self.layer.d_token).transpose(1, 2)
        o = self.layer.virtual_window(state.Z, S)  # (num_query, batch, d)
        return self.checked(self.read_out(o.transpose(0, 1)))

    def state_size(self, num_context: int) -> int:
        return math.prod(self.layer.state_shape) + self.d_x + self.d_y

    def _before_windows(self, x: Tensor) -> Tensor:
        """The layer's output at inputs (..., d_x) without an example, (..., d_token)."""
        token, _ = widen(*self.tokens(x, x.new_zeros(*x.shape[:-1], self.d_y)))
        return self.layer.before_windows(token)
