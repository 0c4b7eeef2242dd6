"""Gated DeltaNet: a stack of delta rules that forget.

Sources: "Gated Delta Networks: Improving Mamba2 with Delta Rule", arXiv 2412.06464; for
`decay="key"` "Kimi Linear", arXiv 2510.26692.
"""

from typing import Literal

from pydantic import PositiveInt

from zoo.layers.block import SequenceBlock
from zoo.layers.gated_delta_net import GatedDeltaNetLayer, KimiDeltaAttentionLayer
from zoo.layers.mixer import GatedMLP, MixerBlock
from zoo.models.sequence import Stack, StackConfig
from zoo.registry import register_model

KIMI_LINEAR = "https://arxiv.org/abs/2510.26692"


class GatedDeltaNetConfig(StackConfig):
    """Arguments of `gated_delta_net`, beside those of every deep model.

    Attributes:
        decay: One for each head, `GatedDeltaNetLayer`, or one for each coordinate of the keys,
            `KimiDeltaAttentionLayer`; the others are explained there.
    """

    decay: Literal["head", "key"] = "head"
    num_heads: PositiveInt = 4
    d_head: PositiveInt = 16
    expand_v: PositiveInt = 2
    d_conv: PositiveInt = 4
    negative_eigenvalues: bool = False


@register_model("gated_delta_net", GatedDeltaNetConfig)
class GatedDeltaNet(Stack[GatedDeltaNetConfig]):
    """Residual blocks of a Gated DeltaNet layer and a gated MLP."""

    paper: str = "https://arxiv.org/abs/2412.06464"

    def __init__(self, config: GatedDeltaNetConfig) -> None:
        super().__init__(config)
        if config.decay == "key":
            self.paper = KIMI_LINEAR

    @classmethod
    def block(cls, config: GatedDeltaNetConfig) -> SequenceBlock:
        kind = GatedDeltaNetLayer if config.decay == "head" else KimiDeltaAttentionLayer
        layer = kind(
            config.d_model,
            config.num_heads,
            config.d_head,
            config.expand_v,
            config.d_conv,
            config.negative_eigenvalues,
        )
        return MixerBlock(layer, GatedMLP(config.d_model))
