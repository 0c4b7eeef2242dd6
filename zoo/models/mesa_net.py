"""MesaNet: a stack of ridge regressions.

Source: "MesaNet: Sequence Modeling by Locally Optimal Test-Time Training", arXiv 2506.05233.
"""

from pydantic import PositiveInt

from zoo.layers.block import SequenceBlock
from zoo.layers.mesa_net import MesaNetLayer
from zoo.layers.mixer import GatedMLP, MixerBlock
from zoo.models.sequence import Stack, StackConfig
from zoo.registry import register_model


class MesaNetConfig(StackConfig):
    """Arguments of `mesa_net`; those beside the ones of every deep model as at `MesaNetLayer`."""

    num_heads: PositiveInt = 4
    d_head: PositiveInt = 16
    d_conv: PositiveInt = 4


@register_model("mesa_net", MesaNetConfig)
class MesaNet(Stack[MesaNetConfig]):
    """Residual blocks of a MesaNet layer and a gated MLP."""

    paper: str = "https://arxiv.org/abs/2506.05233"

    @classmethod
    def block(cls, config: MesaNetConfig) -> SequenceBlock:
        layer = MesaNetLayer(config.d_model, config.num_heads, config.d_head, config.d_conv)
        return MixerBlock(layer, GatedMLP(config.d_model))
