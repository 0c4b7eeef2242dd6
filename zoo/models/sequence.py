"""What deep sequence models have in common: embedding, residual blocks, readout, streaming."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, Literal, NamedTuple, TypeVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import pad

from zoo.layers.block import BlockState, SequenceBlock
from zoo.layers.layer_norm import LayerNorm
from zoo.predictor import Predictor
from zoo.registry import PredictorConfig

TokenLayout = Literal["interleaved", "pairs", "shifted", "inputs"]


class SequenceConfig(PredictorConfig):
    """Arguments of every deep sequence model.

    Attributes:
        d_model: Width of the residual stream.
        tokens: How pairs become tokens, as at `SequenceModel`.
        x_scale: Factor on inputs before the embedding.
        y_scale: Factor on labels before the embedding; values that are predicted are divided by it.
            The shipped recipes bring tokens to about unit variance with both.
        output: `"logits"` if y is one-hot and predictions are scores of its coordinates.
    """

    d_model: PositiveInt = 64
    tokens: TokenLayout = "interleaved"
    x_scale: PositiveFloat = 1.0
    y_scale: PositiveFloat = 1.0
    output: Literal["value", "logits"] = "value"


class StackConfig(SequenceConfig):
    """Arguments of every deep model whose blocks are alike.

    Attributes:
        num_layers: Number of blocks.
    """

    num_layers: PositiveInt = 4


C = TypeVar("C", bound=StackConfig)


class SequenceState(NamedTuple):
    """The states of all blocks after the tokens of the examples seen so far.

    Attributes:
        blocks: State of each block.
        label: Of the newest example where tokens are shifted, (batch, d_y), else None.
        num_seen: Number of examples.
    """

    blocks: tuple[BlockState, ...]
    label: Tensor | None
    num_seen: int


class SequenceModel(Predictor):
    """Blocks on the tokens of pairs and a query, read out where an input is new.

    Inputs and labels have a linear embedding each; `(x, y)` is the sum of both. The prediction at
    position i is a linear function of the normalised last block's output at the token that shows
    x_i without its label.

    | tokens | sequence | what a token holds |
    |---|---|---|
    | `interleaved` | x_1, y_1, ..., x_N, y_N, x_{N+1} | an input or a label |
    | `shifted` | (x_1, 0), (x_2, y_1), ..., (x_{N+1}, y_N) | an input and the label before it |
    | `pairs` | (x_1, y_1), ..., (x_N, y_N), (x_{N+1}, 0) | an input and its label; 0 asks for it |
    | `inputs` | x_1, ..., x_{N+1} | an input; labels are never read |

    On `pairs` a query is another token than the pair that follows, so each position has a query of
    its own, which leaves no trace in the state. `forward` asks them one after the other, but of
    blocks that answer all at once (`SequenceBlock.asks_at_once`).
    """

    def __init__(self, config: SequenceConfig, blocks: Sequence[SequenceBlock]) -> None:
        super().__init__(config.d_x, config.d_y)
        self.x_scale, self.y_scale = config.x_scale, config.y_scale
        self.output = config.output
        self.token_layout = config.tokens
        self.embed_x = nn.Linear(config.d_x, config.d_model)
        reads_labels = config.tokens != "inputs"
        self.embed_y = nn.Linear(config.d_y, config.d_model) if reads_labels else None
        self.blocks = nn.ModuleList(blocks)
        self.norm = LayerNorm(config.d_model)
        self.readout = nn.Linear(config.d_model, config.d_y)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        if self.token_layout == "pairs":
            return self._read_out(self._answers(x, y))
        return self._read_out(self._outputs(x, y)[:, :: self.num_tokens(1)])

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
        label = None
        if self.token_layout == "shifted":
            label = torch.zeros(batch_size, self.d_y, device=device, dtype=dtype)
        return SequenceState(blocks, label, 0)

    def observe(self, state: SequenceState, x: Tensor, y: Tensor) -> SequenceState:
        self.check_pairs(x, y, state)
        if x.shape[1] == 0:
            return state
        num_seen = state.num_seen + x.shape[1]
        self.check_length(num_seen)
        tokens = self.place(self._tokens(x, y, state.label), self.num_tokens(state.num_seen))
        _, blocks = self._run(tokens, state.blocks)
        label = None if state.label is None else y[:, -1].clone()
        return SequenceState(blocks, label, num_seen)

    def predict(self, state: SequenceState, x_query: Tensor) -> Tensor:
        self.check_queries(state, x_query)
        self.check_length(state.num_seen + 1)
        batch, num_query, _ = x_query.shape
        # Each query goes on from a copy of the state, as if it were an episode of its own.
        copies = tuple(
            tuple(part.repeat_interleave(num_query, dim=0) for part in block)
            for block in state.blocks
        )
        label = state.label
        if label is not None:
            label = label.repeat_interleave(num_query, dim=0)
        x = x_query.flatten(0, 1)[:, None]  # (batch * num_query, 1, d_x)
        tokens = self._tokens(x, x.new_zeros(len(x), 0, self.d_y), label)
        u, _ = self._run(self.place(tokens, self.num_tokens(state.num_seen)), copies)
        return self._read_out(u).view(batch, num_query, self.d_y)

    def state_size(self, num_context: int) -> int:
        num_tokens = self.num_tokens(num_context)
        of_label = self.d_y if self.token_layout == "shifted" else 0
        return sum(block.state_size(num_tokens) for block in self._blocks()) + of_label

    def check_positions(self, positions: Literal["last", "all"]) -> None:
        at_once = all(block.asks_at_once for block in self._blocks())
        if positions == "all" and self.token_layout == "pairs" and not at_once:
            raise ValueError(
                "tokens=pairs is trained with positions=last, got all (recipes of deep models set "
                "it); positions=all takes tokens=interleaved, shifted or inputs, or a transformer"
            )

    def num_tokens(self, num_pairs: int) -> int:
        """How many tokens pairs become."""
        return 2 * num_pairs if self.token_layout == "interleaved" else num_pairs

    def place(self, tokens: Tensor, start: int) -> Tensor:
        """Tells tokens (batch, length, d_model) where they stand; here they are left as they are.

        Args:
            tokens: Embedded tokens.
            start: Number of tokens before the first of them.
        """
        return tokens

    def _tokens(self, x: Tensor, y: Tensor, label: Tensor | None = None) -> Tensor:
        """Embedded tokens of inputs and their labels, the last of which may be asked for.

        Args:
            x: (batch, n, d_x).
            y: (batch, n, d_y), or (batch, n - 1, d_y) where the last input is a query.
            label: That of the pair before them, (batch, d_y); zero if there is none.

        Returns:
            (batch, number of tokens, d_model).
        """
        u: Tensor = self.embed_x(x * self.x_scale)
        if self.embed_y is None:
            return u
        if self.token_layout == "interleaved":
            known = y.shape[1]
            pairs = torch.stack([u[:, :known], self.embed_y(y * self.y_scale)], dim=2)
            return torch.cat([pairs.flatten(1, 2), u[:, known:]], dim=1)
        if self.token_layout == "shifted":
            label = x.new_zeros(len(x), self.d_y) if label is None else label
            y = torch.cat([label[:, None], y], dim=1)[:, : x.shape[1]]
        elif y.shape[1] < x.shape[1]:
            y = pad(y, (0, 0, 0, 1))
        embedded: Tensor = self.embed_y(y * self.y_scale)
        return u + embedded

    def _outputs(self, x: Tensor, y: Tensor) -> Tensor:
        """Outputs of the last block at the tokens of N pairs and a query."""
        self.check_length(x.shape[1])
        tokens = self._tokens(x, y[:, :-1])
        u, _ = self._run(self.place(tokens, 0), ((),) * len(self.blocks))
        return u

    def _answers(self, x: Tensor, y: Tensor) -> Tensor:
        """Outputs of the last block at the queries (x_i, 0), (batch, N + 1, d_model)."""
        self.check_length(x.shape[1])
        pairs = self.place(self._tokens(x[:, :-1], y[:, :-1]), 0)
        queries = self.place(self._tokens(x, torch.zeros_like(y)), 0)
        for block in self._blocks():
            pairs, queries = block.ask(pairs, queries)
        return queries

    def _run(
        self, u: Tensor, states: tuple[BlockState, ...]
    ) -> tuple[Tensor, tuple[BlockState, ...]]:
        after = []
        for block, state in zip(self._blocks(), states, strict=True):
            u, state = block(u, state)
            after.append(state)
        return u, tuple(after)

    def _read_out(self, u: Tensor) -> Tensor:
        prediction: Tensor = self.readout(self.norm(u))
        return self.checked(prediction if self.output == "logits" else prediction / self.y_scale)

    def _blocks(self) -> list[SequenceBlock]:
        return [block for block in self.blocks if isinstance(block, SequenceBlock)]


class Stack(SequenceModel, Generic[C]):
    """`num_layers` blocks of one kind, which the subclass says.

    Attributes:
        not_of_a_block: Names of the arguments that are of the whole model and of no block.
    """

    not_of_a_block: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: C) -> None:
        super().__init__(config, [self.block(config) for _ in range(config.num_layers)])

    @classmethod
    @abstractmethod
    def block(cls, config: C) -> SequenceBlock:
        """A block that starts at random, from torch's global generator."""
