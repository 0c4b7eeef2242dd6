"""A stack of GD-SSM blocks.

Source of the layer: "State-space models can learn in-context by gradient descent",
arXiv 2410.11687; heads and block are ours.
"""

from pydantic import NonNegativeFloat, PositiveInt

from zoo.layers.gd_ssm_heads import GDSSMBlock
from zoo.layers.recurrence import Decay
from zoo.models.sequence import SequenceConfig, SequenceModel
from zoo.registry import register_model


class GDSSMDeepConfig(SequenceConfig):
    """Arguments of `gd_ssm_deep`; those of a block are explained at `GDSSMHeads`."""

    d_head: PositiveInt = 16
    decay: Decay = "elementwise"
    scale_Q: NonNegativeFloat = 0.3
    scale_D: NonNegativeFloat = 0.6


@register_model("gd_ssm_deep", GDSSMDeepConfig)
class GDSSMDeep(SequenceModel):
    """A stack of GD-SSM blocks."""

    paper: str = "https://arxiv.org/abs/2410.11687"

    def __init__(self, config: GDSSMDeepConfig) -> None:
        blocks = [
            GDSSMBlock(config.d_model, config.d_head, config.decay, config.scale_Q, config.scale_D)
            for _ in range(config.num_layers)
        ]
        super().__init__(config, blocks)
