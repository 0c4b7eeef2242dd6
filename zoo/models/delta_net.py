"""DeltaNet: a stack of delta rules.

Source: "Parallelizing Linear Transformers with the Delta Rule over Sequence Length", arXiv
2406.06484.
"""

from pydantic import PositiveInt

from zoo.layers.delta_net import DeltaNetLayer
from zoo.layers.mixer import GatedMLP, MixerBlock
from zoo.models.sequence import SequenceConfig, SequenceModel
from zoo.registry import register_model


class DeltaNetConfig(SequenceConfig):
    """Arguments of `delta_net`; those beside the ones of every deep model as at `DeltaNetLayer`."""

    num_heads: PositiveInt = 4
    d_head: PositiveInt = 16
    expand_v: PositiveInt = 1
    d_conv: PositiveInt = 4
    negative_eigenvalues: bool = False


@register_model("delta_net", DeltaNetConfig)
class DeltaNet(SequenceModel):
    """Residual blocks of a DeltaNet layer and a gated MLP."""

    paper: str = "https://arxiv.org/abs/2406.06484"

    def __init__(self, config: DeltaNetConfig) -> None:
        layers = (
            DeltaNetLayer(
                config.d_model,
                config.num_heads,
                config.d_head,
                config.expand_v,
                config.d_conv,
                config.negative_eigenvalues,
            )
            for _ in range(config.num_layers)
        )
        super().__init__(config, [MixerBlock(layer, GatedMLP(config.d_model)) for layer in layers])
