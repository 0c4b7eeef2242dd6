"""A causal transformer: pre-norm, softmax attention, as in GPT-2."""

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn

from zoo.layers.attention import TransformerBlock
from zoo.layers.block import SequenceBlock
from zoo.models.sequence import Stack, StackConfig
from zoo.registry import register_model


class TransformerConfig(StackConfig):
    """Arguments of `transformer`, beside those of every deep sequence model.

    Attributes:
        num_heads: Attention heads; divides d_model.
        positions: `"learned"`: a vector for each place is added to the tokens; `"none"`: causal
            attention alone tells places apart.
        max_context: Most examples before a query that learned positions have places for.
    """

    num_heads: PositiveInt = 4
    positions: Literal["learned", "none"] = "learned"
    max_context: PositiveInt = 64


@register_model("transformer", TransformerConfig)
class Transformer(Stack[TransformerConfig]):
    """Residual transformer blocks."""

    paper: str = "https://arxiv.org/abs/1706.03762"

    # On a CPU one batch takes 1.06 to 1.14 times as long where attention is plain products; of more
    # than 64 tokens it is fused, for which torch.vmap knows no rule there and goes one by one.
    replicas_in_turn_on = ("cpu",)
    not_of_a_block = ("positions", "max_context")

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.max_context = config.max_context
        self.positions: nn.Embedding | None = None
        if config.positions == "learned":
            num_places = self.num_tokens(config.max_context) + 1
            self.positions = nn.Embedding(num_places, config.d_model)
            nn.init.normal_(self.positions.weight, std=0.02)

    @classmethod
    def block(cls, config: TransformerConfig) -> SequenceBlock:
        return TransformerBlock(config.d_model, config.num_heads)

    def place(self, tokens: Tensor, start: int) -> Tensor:
        if self.positions is None:
            return tokens
        return tokens + self.positions.weight[start : start + tokens.shape[1]]

    def check_length(self, length: int) -> None:
        if self.positions is not None and length > self.max_context + 1:
            raise ValueError(
                f"learned positions reach to length {self.max_context + 1} "
                f"(max_context = {self.max_context} and the query), got {length}"
            )
