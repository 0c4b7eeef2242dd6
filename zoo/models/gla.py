"""Gated linear attention: a stack of sums of outer products that fade.

Source: "Gated Linear Attention Transformers with Hardware-Efficient Training", arXiv 2312.06635.
"""

from pydantic import PositiveInt

from zoo.layers.gla import GatedLinearAttentionLayer
from zoo.layers.mixer import GatedMLP, MixerBlock
from zoo.models.sequence import SequenceConfig, SequenceModel
from zoo.registry import register_model


class GLAConfig(SequenceConfig):
    """Arguments of `gla`, beside those of every deep model; see `GatedLinearAttentionLayer`."""

    num_heads: PositiveInt = 4
    d_head: PositiveInt = 8
    expand_v: PositiveInt = 2


@register_model("gla", GLAConfig)
class GLA(SequenceModel):
    """Residual blocks of gated linear attention and a gated MLP."""

    paper: str = "https://arxiv.org/abs/2312.06635"

    def __init__(self, config: GLAConfig) -> None:
        layers = (
            GatedLinearAttentionLayer(
                config.d_model, config.num_heads, config.d_head, config.expand_v
            )
            for _ in range(config.num_layers)
        )
        super().__init__(config, [MixerBlock(layer, GatedMLP(config.d_model)) for layer in layers])
