"""Mamba-2: a stack of gated state-space layers with one decay for each head.

Source: "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State
Space Duality", arXiv 2405.21060.
"""

from pydantic import PositiveInt

from zoo.layers.block import SequenceBlock
from zoo.layers.mamba2 import Mamba2Layer
from zoo.layers.mixer import MixerBlock
from zoo.models.sequence import Stack, StackConfig
from zoo.registry import register_model


class Mamba2Config(StackConfig):
    """Arguments of `mamba2`; those beside the ones of every deep model as at `Mamba2Layer`."""

    d_state: PositiveInt = 32
    d_head: PositiveInt = 32
    d_conv: PositiveInt = 4
    expand: PositiveInt = 2


@register_model("mamba2", Mamba2Config)
class Mamba2(Stack[Mamba2Config]):
    """Residual Mamba-2 layers, without an MLP, as published."""

    paper: str = "https://arxiv.org/abs/2405.21060"

    @classmethod
    def block(cls, config: Mamba2Config) -> SequenceBlock:
        layer = Mamba2Layer(
            config.d_model, config.d_state, config.d_head, config.d_conv, config.expand
        )
        return MixerBlock(layer, None)
