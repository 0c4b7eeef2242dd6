"""DeltaNet: a stack of delta rules.

Source: "Parallelizing Linear Transformers with the Delta Rule over Sequence Length", arXiv
2406.06484.
"""

from pydantic import PositiveInt

from zoo.layers.block import SequenceBlock
from zoo.layers.delta_net import DeltaNetLayer
from zoo.layers.mixer import GatedMLP, MixerBlock
from zoo.models.sequence import Stack, StackConfig
from zoo.registry import register_model


class DeltaNetConfig(StackConfig):
    """Arguments of `delta_net`; those beside the ones of every deep model as at `DeltaNetLayer`."""

    num_heads: PositiveInt = 4
    d_head: PositiveInt = 16
    expand_v: PositiveInt = 1
    d_conv: PositiveInt = 4
    negative_eigenvalues: bool = False


@register_model("delta_net", DeltaNetConfig)
class DeltaNet(Stack[DeltaNetConfig]):
    """Residual blocks of a DeltaNet layer and a gated MLP."""

    paper: str = "https://arxiv.org/abs/2406.06484"

    @classmethod
    def block(cls, config: DeltaNetConfig) -> SequenceBlock:
        layer = DeltaNetLayer(
            config.d_model,
            config.num_heads,
            config.d_head,
            config.expand_v,
            config.d_conv,
            config.negative_eigenvalues,
        )
        return MixerBlock(layer, GatedMLP(config.d_model))
