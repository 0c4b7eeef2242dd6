"""Linear self-attention on pairs: L layers can do L steps of gradient descent.

Source: von Oswald et al. 2022, "Transformers learn in-context by gradient descent", 2212.07677.
"""

from typing import Literal, NamedTuple

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import pad

from zoo.layers.linear_attention import LinearAttention
from zoo.predictor import BufferState, Predictor
from zoo.registry import PredictorConfig, register_model


class LinearTransformerConfig(PredictorConfig):
    """Arguments of `linear_transformer`.

    Attributes:
        num_layers: Layers L.
        num_heads: Heads of each.
        shared: Whether all layers have the same weights.
        attention: `"full"`: the examples before a query see each other, all of them, as L steps of
            gradient descent need it; `"causal"`: an example sees itself and those before it.
        scale: Standard deviation of the random start of every matrix, times sqrt(d_x + d_y).
    """

    num_layers: PositiveInt = 1
    num_heads: PositiveInt = 1
    shared: bool = False
    attention: Literal["full", "causal"] = "full"
    scale: NonNegativeFloat = 0.1


class CausalState(NamedTuple):
    """What causal linear attention remembers; its size does not grow.

    Attributes:
        S: Sum of key-value products in each layer, (batch, num_layers, num_heads, d, d), float32
            at least.
        num_seen: Number of examples.
    """

    S: Tensor
    num_seen: int


@register_model("linear_transformer", LinearTransformerConfig)
class LinearTransformer(Predictor):
    """Linear self-attention layers on tokens (x_i, y_i), asked with (x_query, 0).

    The query sees the examples and is seen by none. The prediction is minus its label part after
    the last layer: in the construction, layer l turns labels into the residuals y_i - W_l x_i, and
    the query's zero into -W_l x_query.

    With full attention the examples of a prefix see each other but nothing behind it, so a prefix
    cannot share its work with a longer one: `forward` runs each as a row of its own, and streaming
    keeps the examples. With causal attention all positions share one pass and a constant state.
    """

    token_layout = "pairs"
    paper: str = "https://arxiv.org/abs/2212.07677"
    heavy_tailed = True

    def __init__(self, config: LinearTransformerConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        d_token = config.d_x + config.d_y
        scale = config.scale / d_token**0.5
        num_distinct = 1 if config.shared else config.num_layers
        self.layers = nn.ModuleList(
            LinearAttention(d_token, config.num_heads, scale) for _ in range(num_distinct)
        )
        self.num_layers = config.num_layers
        self.num_heads = config.num_heads
        self.causal = config.attention == "causal"

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        examples = torch.cat([x, y], dim=-1)[:, :-1]  # (batch, N, d)
        queries = self._query_tokens(x)  # (batch, N + 1, d)
        num_context = examples.shape[1]
        if self.causal:
            pairs = torch.stack([queries[:, :-1], examples], dim=2).flatten(1, 2)
            tokens = torch.cat([pairs, queries[:, -1:]], dim=1)  # (batch, 2N + 1, d)
            writes = torch.arange(2 * num_context + 1, device=x.device) % 2 == 1
            tokens, _ = self._run_causal(tokens, writes, self._start(len(x), x.device, x.dtype))
            return self._prediction(tokens[:, 0::2])
        before = torch.ones(num_context + 1, num_context, device=x.device).tril(-1)
        prefixes = torch.where(
            before[..., None] > 0, examples[:, None], 0.0
        )  # (batch, N + 1, N, d)
        return self._prediction(self._run_full(prefixes, queries[:, :, None])[:, :, 0])

    def predict_query(self, x: Tensor, y: Tensor) -> Tensor:
        if self.causal:
            return super().predict_query(x, y)
        self.check_pairs(x, y)
        examples = torch.cat([x, y], dim=-1)[:, :-1]
        return self._prediction(self._run_full(examples, self._query_tokens(x[:, -1:])))[:, 0]

    def init_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> BufferState | CausalState:
        if not self.causal:
            buffer: BufferState = super().init_state(batch_size, device, dtype)
            return buffer
        device, dtype = self.state_options(batch_size, device, dtype)
        return CausalState(self._start(batch_size, device, dtype), 0)

    def observe(
        self, state: BufferState | CausalState, x: Tensor, y: Tensor
    ) -> BufferState | CausalState:
        if isinstance(state, BufferState):
            buffer: BufferState = super().observe(state, x, y)
            return buffer
        self.check_pairs(x, y, state)
        if x.shape[1] == 0:
            return state
        examples = torch.cat([x, y], dim=-1)
        writes = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
        _, S = self._run_causal(examples, writes, state.S)
        return CausalState(S, state.num_seen + x.shape[1])

    def predict(self, state: BufferState | CausalState, x_query: Tensor) -> Tensor:
        self.check_queries(state, x_query)
        queries = self._query_tokens(x_query)
        if isinstance(state, BufferState):
            return self._prediction(self._run_full(torch.cat([state.x, state.y], dim=-1), queries))
        if not x_query.shape[1]:  # causal attention needs a token
            return self._prediction(queries)
        writes = torch.zeros(x_query.shape[1], dtype=torch.bool, device=x_query.device)
        return self._prediction(self._run_causal(queries, writes, state.S)[0])

    def state_size(self, num_context: int) -> int:
        if self.causal:
            return self.num_layers * self.num_heads * (self.d_x + self.d_y) ** 2
        return super().state_size(num_context)

    def _run_full(self, examples: Tensor, queries: Tensor) -> Tensor:
        """Queries (..., num_queries, d) after all layers; examples (..., N, d) see each other."""
        num_context = examples.shape[-2]
        tokens = torch.cat([examples, queries], dim=-2)
        for number in range(self.num_layers - 1):
            tokens = self._layer(number).attend_to_all(tokens, tokens[..., :num_context, :])
        examples = tokens[..., :num_context, :]
        # Contiguous: else torch multiplies by another kernel, which rounds differently, where no
        # parameter requires a gradient.
        queries = tokens[..., num_context:, :].contiguous()
        return self._layer(self.num_layers - 1).attend_to_all(queries, examples)

    def _run_causal(self, tokens: Tensor, writes: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens after all layers, and the sums of the layers after the last token.

        Args:
            tokens: (batch, num_tokens, d).
            writes: Which of them are examples; the others are seen by none, (num_tokens,).
            S: Sums before the first, (batch, num_layers, num_heads, d, d).
        """
        after = []
        for number in range(self.num_layers):
            written = torch.where(writes[:, None], tokens, 0.0)
            tokens, S_layer = self._layer(number).attend_causally(tokens, written, S[:, number])
            after.append(S_layer)
        return tokens, torch.stack(after, dim=1)

    def _start(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        d = self.d_x + self.d_y
        shape = (batch_size, self.num_layers, self.num_heads, d, d)
        return torch.zeros(shape, device=device, dtype=torch.promote_types(dtype, torch.float32))

    def _layer(self, number: int) -> LinearAttention:
        layer = self.layers[number % len(self.layers)]
        assert isinstance(layer, LinearAttention)
        return layer

    def _query_tokens(self, x: Tensor) -> Tensor:
        return pad(x, (0, self.d_y))

    def _prediction(self, queries: Tensor) -> Tensor:
        return self.checked(-queries[..., self.d_x :])


@torch.no_grad()
def construct_gradient_descent_(model: LinearTransformer, step_size: float) -> LinearTransformer:
    """Sets the weights, in place, that make L layers L steps of gradient descent from zero.

    In the first head of each layer W_Q and W_K pick the inputs, W_V the labels and P is -eta I, so
    that e_j loses eta sum_i r_i (x_i . x_j) from its label part; other heads are zero.

    Args:
        model: A `linear_transformer` with full attention, or with causal attention and one layer.
        step_size: eta; multiplies the gradient of the sum over examples of half the squared error.

    Raises:
        ValueError: If attention is causal and there is more than one layer: an example then does
            not see those behind it, which its residual after a full step depends on.
    """
    if model.causal and model.num_layers > 1:
        raise ValueError(
            f"causal attention does one gradient step, got num_layers = {model.num_layers}; "
            "attention='full' does one for each layer"
        )
    for number in range(len(model.layers)):
        layer = model._layer(number)
        for name in ("W_Q", "W_K", "W_V", "P"):
            getattr(layer, name).zero_()
        inputs, labels = slice(0, model.d_x), slice(model.d_x, None)
        layer.W_Q[0, inputs, inputs].fill_diagonal_(1)
        layer.W_K[0, inputs, inputs].fill_diagonal_(1)
        layer.W_V[0, labels, labels].fill_diagonal_(1)
        layer.P[0].fill_diagonal_(-step_size)
    return model
