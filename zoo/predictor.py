"""The contract of everything that predicts: learned models and exact algorithms alike."""

from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn


class BufferState(NamedTuple):
    """The examples seen so far: the streaming state of a predictor without a shorter summary.

    Attributes:
        x: Inputs, (batch, num_seen, d_x).
        y: Labels, (batch, num_seen, d_y).
    """

    x: Tensor
    y: Tensor


class Predictor(nn.Module):
    """A map from examples in a context to predictions.

    A subclass implements `forward`. It overrides `predict_query` where the last position is cheaper
    than all of them, and the streaming methods where it has a state smaller than the examples.

    Attributes:
        d_x: Width of an input.
        d_y: Width of a label.
        output: Whether a prediction is a `"value"` of y or `"logits"` over its coordinates.
        ssm_parameters: Names of the parameters a module owns that belong to its state-space
            recurrence. They train at their own rate and without weight decay. Layers inside a
            predictor may declare the same attribute.
        token_layout: How pairs become tokens, for the reader of a card.
        replicas_in_turn_on: Types of device on which replicas, the same model from several seeds,
            take a training step in turn, since as one batch under `torch.vmap` it takes longer.
    """

    output: Literal["value", "logits"] = "value"
    ssm_parameters: ClassVar[tuple[str, ...]] = ()
    token_layout: ClassVar[str] = "pairs"
    replicas_in_turn_on: tuple[str, ...] = ()

    def __init__(self, d_x: int, d_y: int) -> None:
        super().__init__()
        self.d_x = d_x
        self.d_y = d_y

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Predicts at every position from the examples before it.

        Args:
            x: Inputs, (batch, length, d_x).
            y: Labels, (batch, length, d_y). The last one is never read.

        Returns:
            Predictions, (batch, length, d_y). Position i depends on `x[:, :i+1]` and `y[:, :i]`
            alone, so it is the prediction for `x[:, i]` after i examples.

        Raises:
            ValueError: If the shapes of x and y do not fit each other or the predictor.
        """
        raise NotImplementedError

    def predict_query(self, x: Tensor, y: Tensor) -> Tensor:
        """Predicts at the last position only: `forward(x, y)[:, -1]`, (batch, d_y)."""
        return self.forward(x, y)[:, -1]

    def init_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Any:
        """The streaming state before the first example, for `batch_size` episodes side by side.

        Device and type are those of the parameters unless given. A state is a tensor with the
        episodes first, or a tuple that begins with a state.
        """
        like = next(self.parameters(), torch.empty(0))
        x = torch.zeros(
            batch_size, 0, self.d_x, device=device or like.device, dtype=dtype or like.dtype
        )
        return BufferState(x, x.new_zeros(batch_size, 0, self.d_y))

    def observe(self, state: Any, x: Tensor, y: Tensor) -> Any:
        """The state after further examples; the given state stays as it is.

        Args:
            state: From `init_state` or an earlier `observe`.
            x: New inputs, (batch, num_new, d_x).
            y: Their labels, (batch, num_new, d_y). All of them are read.
        """
        self.check_pairs(x, y, state)
        return BufferState(torch.cat([state.x, x], dim=1), torch.cat([state.y, y], dim=1))

    def predict(self, state: Any, x_query: Tensor) -> Tensor:
        """Predicts for queries that share the examples seen so far and do not see each other.

        Args:
            state: From `init_state` or `observe`; stays as it is.
            x_query: (batch, num_query, d_x).

        Returns:
            Predictions, (batch, num_query, d_y).
        """
        self.check_queries(state, x_query)
        batch, num_query, _ = x_query.shape
        x = state.x[:, None].expand(-1, num_query, -1, -1)
        y = state.y[:, None].expand(-1, num_query, -1, -1)
        x = torch.cat([x, x_query[:, :, None]], dim=2).flatten(0, 1)
        y = torch.cat([y, y.new_zeros(batch, num_query, 1, self.d_y)], dim=2).flatten(0, 1)
        return self.predict_query(x, y).view(batch, num_query, self.d_y)

    def state_size(self, num_context: int) -> int:
        """Real numbers in the streaming state of one episode after `num_context` examples."""
        return num_context * (self.d_x + self.d_y)

    def check_pairs(self, x: Tensor, y: Tensor, state: Any = None) -> None:
        """Raises ValueError unless x (batch, length, d_x) and y (batch, length, d_y) are floats.

        With a state, its episodes must be as many.
        """
        if not isinstance(x, Tensor) or not isinstance(y, Tensor):
            raise TypeError(f"x and y must be tensors, got {type(x)} and {type(y)}")
        if (
            x.ndim != 3
            or y.ndim != 3
            or x.shape[:2] != y.shape[:2]
            or x.shape[2] != self.d_x
            or y.shape[2] != self.d_y
        ):
            raise ValueError(
                f"x must be (batch, length, {self.d_x}) and y (batch, length, {self.d_y}) with the "
                f"same batch and length, got x {tuple(x.shape)} and y {tuple(y.shape)}"
            )
        if not x.is_floating_point() or not y.is_floating_point():
            raise ValueError(f"x and y must be floating point, got {x.dtype} and {y.dtype}")
        if x.shape[1] == 0:
            raise ValueError("x and y must hold at least one position, got length 0")
        if state is not None:
            self._check_batch(state, len(x))

    def check_queries(self, state: Any, x_query: Tensor) -> None:
        """Raises ValueError unless x_query is (batch, num_query, d_x), with the state's batch."""
        if x_query.ndim != 3 or x_query.shape[2] != self.d_x:
            raise ValueError(
                f"x_query must be (batch, num_query, {self.d_x}), got {tuple(x_query.shape)}"
            )
        self._check_batch(state, len(x_query))

    def _check_batch(self, state: Any, batch: int) -> None:
        while not isinstance(state, Tensor):
            state = state[0]
        if len(state) != batch:
            raise ValueError(f"the state is of {len(state)} episodes, got {batch}")
