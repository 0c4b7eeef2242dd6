"""MesaNet: a stack of ridge regressions.

Source: "MesaNet: Sequence Modeling by Locally Optimal Test-Time Training", arXiv 2506.05233.
"""

from pydantic import PositiveInt

from zoo.layers.mesa_net import MesaNetLayer
from zoo.layers.mixer import GatedMLP, MixerBlock
from zoo.models.sequence import SequenceConfig, SequenceModel
from zoo.registry import register_model


class MesaNetConfig(SequenceConfig):
    """Arguments of `mesa_net`; those beside the ones of every deep model as at `MesaNetLayer`."""

    num_heads: PositiveInt = 4
    d_head: PositiveInt = 16
    d_conv: PositiveInt = 4


@register_model("mesa_net", MesaNetConfig)
class MesaNet(SequenceModel):
    """Residual blocks of a MesaNet layer and a gated MLP."""

    paper: str = "https://arxiv.org/abs/2506.05233"

    def __init__(self, config: MesaNetConfig) -> None:
        layers = (
            MesaNetLayer(config.d_model, config.num_heads, config.d_head, config.d_conv)
            for _ in range(config.num_layers)
        )
        super().__init__(config, [MixerBlock(layer, GatedMLP(config.d_model)) for layer in layers])
