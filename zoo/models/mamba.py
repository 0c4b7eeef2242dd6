"""Mamba: a stack of gated selective state-space layers.

Source: "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv 2312.00752.
"""

from typing import Literal

from pydantic import PositiveInt

from zoo.layers.block import SequenceBlock
from zoo.layers.mamba import MambaBlock, MambaLayer
from zoo.models.sequence import Stack, StackConfig
from zoo.registry import register_model


class MambaConfig(StackConfig):
    """Arguments of `mamba`; those beside the ones of every deep model as at `MambaLayer`."""

    d_state: PositiveInt = 16
    d_conv: PositiveInt = 4
    expand: PositiveInt = 2
    dt_rank: PositiveInt | Literal["auto"] = "auto"
    negative_eigenvalues: bool = False


@register_model("mamba", MambaConfig)
class Mamba(Stack[MambaConfig]):
    """Residual Mamba blocks."""

    paper: str = "https://arxiv.org/abs/2312.00752"

    replicas_in_turn_on = ("cuda",)  # where torch.vmap would rule out the kernel of mamba_ssm

    @classmethod
    def block(cls, config: MambaConfig) -> SequenceBlock:
        layer = MambaLayer(
            config.d_model,
            config.d_state,
            config.d_conv,
            config.expand,
            config.dt_rank,
            config.negative_eigenvalues,
        )
        return MambaBlock(layer)
