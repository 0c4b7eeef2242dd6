"""Longhorn: a stack of implicit online learners.

Source: "Longhorn: State Space Models are Amortized Online Learners", arXiv 2407.14207.
"""

from typing import Literal

from pydantic import PositiveInt

from zoo.layers.longhorn import LonghornLayer
from zoo.layers.mixer import MixerBlock
from zoo.models.sequence import SequenceConfig, SequenceModel
from zoo.registry import register_model


class LonghornConfig(SequenceConfig):
    """Arguments of `longhorn`; those beside the ones of every deep model as at `LonghornLayer`."""

    d_state: PositiveInt = 16
    d_conv: PositiveInt = 4
    expand: PositiveInt = 2
    dt_rank: PositiveInt | Literal["auto"] = "auto"


@register_model("longhorn", LonghornConfig)
class Longhorn(SequenceModel):
    """Residual Longhorn layers, without an MLP, as published."""

    paper: str = "https://arxiv.org/abs/2407.14207"

    def __init__(self, config: LonghornConfig) -> None:
        layers = (
            LonghornLayer(
                config.d_model, config.d_state, config.d_conv, config.expand, config.dt_rank
            )
            for _ in range(config.num_layers)
        )
        super().__init__(config, [MixerBlock(layer, None) for layer in layers])
