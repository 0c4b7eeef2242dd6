"""A stack of GD-SSM blocks.

Source of the layer: "State-space models can learn in-context by gradient descent",
arXiv 2410.11687; heads and block are ours.
"""

from pydantic import NonNegativeFloat, PositiveInt

from zoo.layers.block import SequenceBlock
from zoo.layers.gd_ssm_heads import GDSSMBlock
from zoo.layers.recurrence import Decay
from zoo.models.sequence import Stack, StackConfig
from zoo.registry import register_model


class GDSSMDeepConfig(StackConfig):
    """Arguments of `gd_ssm_deep`; those of a block are explained at `GDSSMHeads`."""

    d_head: PositiveInt = 16
    decay: Decay = "elementwise"
    scale_Q: NonNegativeFloat = 0.3
    scale_D: NonNegativeFloat = 0.6


@register_model("gd_ssm_deep", GDSSMDeepConfig)
class GDSSMDeep(Stack[GDSSMDeepConfig]):
    """A stack of GD-SSM blocks."""

    paper: str = "https://arxiv.org/abs/2410.11687"

    @classmethod
    def block(cls, config: GDSSMDeepConfig) -> SequenceBlock:
        scales = config.scale_Q, config.scale_D
        return GDSSMBlock(config.d_model, config.d_head, config.decay, *scales)
