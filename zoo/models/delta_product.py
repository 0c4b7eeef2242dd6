"""Gated DeltaProduct: a stack of products of delta rules.

Source: "DeltaProduct: Improving State-Tracking in Linear RNNs via Householder Products", arXiv
2502.10297.
"""

from pydantic import PositiveInt

from zoo.layers.block import SequenceBlock
from zoo.layers.delta_product import DeltaProductLayer
from zoo.layers.mixer import GatedMLP, MixerBlock
from zoo.models.sequence import Stack, StackConfig
from zoo.registry import register_model


class DeltaProductConfig(StackConfig):
    """Arguments of `delta_product`, beside those of every deep model; see `DeltaProductLayer`."""

    num_updates: PositiveInt = 2
    num_heads: PositiveInt = 4
    d_head: PositiveInt = 16
    expand_v: PositiveInt = 2
    d_conv: PositiveInt = 4
    negative_eigenvalues: bool = True


@register_model("delta_product", DeltaProductConfig)
class DeltaProduct(Stack[DeltaProductConfig]):
    """Residual blocks of a Gated DeltaProduct layer and a gated MLP."""

    paper: str = "https://arxiv.org/abs/2502.10297"

    @classmethod
    def block(cls, config: DeltaProductConfig) -> SequenceBlock:
        layer = DeltaProductLayer(
            config.d_model,
            config.num_updates,
            config.num_heads,
            config.d_head,
            config.expand_v,
            config.d_conv,
            config.negative_eigenvalues,
        )
        return MixerBlock(layer, GatedMLP(config.d_model))
