"""Gated linear attention: a stack of sums of outer products that fade.

Source: "Gated Linear Attention Transformers with Hardware-Efficient Training", arXiv 2312.06635.
"""

from pydantic import PositiveInt

from zoo.layers.block import SequenceBlock
from zoo.layers.gla import GatedLinearAttentionLayer
from zoo.layers.mixer import GatedMLP, MixerBlock
from zoo.models.sequence import Stack, StackConfig
from zoo.registry import register_model


class GLAConfig(StackConfig):
    """Arguments of `gla`, beside those of every deep model; see `GatedLinearAttentionLayer`."""

    num_heads: PositiveInt = 4
    d_head: PositiveInt = 8
    expand_v: PositiveInt = 2


@register_model("gla", GLAConfig)
class GLA(Stack[GLAConfig]):
    """Residual blocks of gated linear attention and a gated MLP."""

    paper: str = "https://arxiv.org/abs/2312.06635"

    @classmethod
    def block(cls, config: GLAConfig) -> SequenceBlock:
        layer = GatedLinearAttentionLayer(
            config.d_model, config.num_heads, config.d_head, config.expand_v
        )
        return MixerBlock(layer, GatedMLP(config.d_model))
