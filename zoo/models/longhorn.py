"""Longhorn: a stack of implicit online learners.

Source: "Longhorn: State Space Models are Amortized Online Learners", arXiv 2407.14207.
"""

from typing import Literal

from pydantic import PositiveInt

from zoo.layers.block import SequenceBlock
from zoo.layers.longhorn import LonghornLayer
from zoo.layers.mixer import MixerBlock
from zoo.models.sequence import Stack, StackConfig
from zoo.registry import register_model


class LonghornConfig(StackConfig):
    """Arguments of `longhorn`; those beside the ones of every deep model as at `LonghornLayer`."""

    d_state: PositiveInt = 16
    d_conv: PositiveInt = 4
    expand: PositiveInt = 2
    dt_rank: PositiveInt | Literal["auto"] = "auto"


@register_model("longhorn", LonghornConfig)
class Longhorn(Stack[LonghornConfig]):
    """Residual Longhorn layers, without an MLP, as published."""

    paper: str = "https://arxiv.org/abs/2407.14207"

    @classmethod
    def block(cls, config: LonghornConfig) -> SequenceBlock:
        layer = LonghornLayer(
            config.d_model, config.d_state, config.d_conv, config.expand, config.dt_rank
        )
        return MixerBlock(layer, None)
