"""What deep sequence models have in common: embedding, residual blocks, readout, streaming."""

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from zoo.layers.block import BlockState, SequenceBlock
from zoo.layers.layer_norm import LayerNorm
from zoo.predictor import Predictor
from zoo.registry import PredictorConfig


class SequenceConfig(PredictorConfig):
    """Arguments of every deep sequence model.

    Attributes:
        d_model: Width of the residual stream.
        num_layers: Number of blocks.
        x_scale: Factor on inputs before the embedding.
        y_scale: Factor on labels before the embedding; values that are predicted are divided by it.
            The shipped recipes bring tokens to about unit variance with both.
        output: `"logits"` if y is one-hot and predictions are scores of its coordinates.
    """

    d_model: PositiveInt = 64
    num_layers: PositiveInt = 4
    x_scale: PositiveFloat = 1.0
    y_scale: PositiveFloat = 1.0
    output: Literal["value", "logits"] = "value"


class SequenceState(NamedTuple):
    """The states of all blocks after the tokens of the examples seen so far.

    Attributes:
        blocks: State of each block.
        num_seen: Number of examples.
    """

    blocks: tuple[BlockState, ...]
    num_seen: int


class SequenceModel(Predictor):
    """Blocks on the tokens x_1, y_1, ..., x_N, y_N, x_{N+1}, read out at the inputs.

    Inputs and labels have a linear embedding each, so that a token says which of the two it is.
    The prediction at position i is a linear function of the normalised last block's output at x_i.
    """

    token_layout: ClassVar[str] = "interleaved"

    def __init__(self, config: SequenceConfig, blocks: Sequence[SequenceBlock]) -> None:
        super().__init__(config.d_x, config.d_y)
        self.x_scale, self.y_scale = config.x_scale, config.y_scale
        self.output = config.output
        self.embed_x = nn.Linear(config.d_x, config.d_model)
        self.embed_y = nn.Linear(config.d_y, config.d_model)
        self.blocks = nn.ModuleList(blocks)
        self.norm = LayerNorm(config.d_model)
        self.readout = nn.Linear(config.d_model, config.d_y)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        return self._read_out(self._outputs(x, y)[:, 0::2])

    def predict_query(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        return self._read_out(self._outputs(x, y)[:, -1])

    def init_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> SequenceState:
        device, dtype = self.state_options(batch_size, device, dtype)
        blocks = tuple(block.init_state(batch_size, device, dtype) for block in self._blocks())
        return SequenceState(blocks, 0)

    def observe(self, state: SequenceState, x: Tensor, y: Tensor) -> SequenceState:
        self.check_pairs(x, y, state)
        if x.shape[1] == 0:
            return state
        self.check_length(state.num_seen + x.shape[1])
        tokens = torch.stack([self._embed_x(x), self._embed_y(y)], dim=2).flatten(1, 2)
        _, blocks = self._run(self.place(tokens, 2 * state.num_seen), state.blocks)
        return SequenceState(blocks, state.num_seen + x.shape[1])

    def predict(self, state: SequenceState, x_query: Tensor) -> Tensor:
        self.check_queries(state, x_query)
        self.check_length(state.num_seen + 1)
        batch, num_query, _ = x_query.shape
        # Each query goes on from a copy of the state, as if it were an episode of its own.
        copies = tuple(
            tuple(part.repeat_interleave(num_query, dim=0) for part in block)
            for block in state.blocks
        )
        tokens = self._embed_x(x_query).flatten(0, 1)[:, None]  # (batch * num_query, 1, d_model)
        u, _ = self._run(self.place(tokens, 2 * state.num_seen), copies)
        return self._read_out(u).view(batch, num_query, self.d_y)

    def state_size(self, num_context: int) -> int:
        return sum(block.state_size(2 * num_context) for block in self._blocks())

    def place(self, tokens: Tensor, start: int) -> Tensor:
        """Tells tokens (batch, length, d_model) where they stand; here they are left as they are.

        Args:
            tokens: Embedded tokens.
            start: Number of tokens before the first of them.
        """
        return tokens

    def check_length(self, length: int) -> None:
        """Raises ValueError if the model cannot take `length` positions; any number by default."""

    def _outputs(self, x: Tensor, y: Tensor) -> Tensor:
        """Outputs of the last block at every token, (batch, 2N + 1, d_model)."""
        self.check_length(x.shape[1])
        x_tokens, y_tokens = self._embed_x(x), self._embed_y(y[:, :-1])
        pairs = torch.stack([x_tokens[:, :-1], y_tokens], dim=2).flatten(1, 2)
        tokens = torch.cat([pairs, x_tokens[:, -1:]], dim=1)
        u, _ = self._run(self.place(tokens, 0), ((),) * len(self.blocks))
        return u

    def _run(
        self, u: Tensor, states: tuple[BlockState, ...]
    ) -> tuple[Tensor, tuple[BlockState, ...]]:
        after = []
        for block, state in zip(self._blocks(), states, strict=True):
            u, state = block(u, state)
            after.append(state)
        return u, tuple(after)

    def _embed_x(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.embed_x(x * self.x_scale)
        return embedded

    def _embed_y(self, y: Tensor) -> Tensor:
        embedded: Tensor = self.embed_y(y * self.y_scale)
        return embedded

    def _read_out(self, u: Tensor) -> Tensor:
        prediction: Tensor = self.readout(self.norm(u))
        return self.checked(prediction if self.output == "logits" else prediction / self.y_scale)

    def _blocks(self) -> list[SequenceBlock]:
        return [block for block in self.blocks if isinstance(block, SequenceBlock)]
