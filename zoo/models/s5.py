"""S5: a stack of diagonal state-space layers with many inputs and outputs.

Source: "Simplified State Space Layers for Sequence Modeling", arXiv 2208.04933.
"""

from pydantic import PositiveFloat, PositiveInt

from zoo.layers.block import SequenceBlock
from zoo.layers.discretization import Discretization
from zoo.layers.s5 import Activation, S5Block, S5Layer
from zoo.models.sequence import Stack, StackConfig
from zoo.registry import register_model


class S5Config(StackConfig):
    """Arguments of `s5`; those of the layer are explained at `S5Layer`, activation at `S5Block`."""

    d_state: PositiveInt = 64
    num_blocks: PositiveInt = 1
    discretization: Discretization = "zoh"
    dt_min: PositiveFloat = 1e-3
    dt_max: PositiveFloat = 1e-1
    clip_eigs: bool = True
    activation: Activation = "half_glu"


@register_model("s5", S5Config)
class S5(Stack[S5Config]):
    """A stack of S5 blocks."""

    paper: str = "https://arxiv.org/abs/2208.04933"

    @classmethod
    def block(cls, config: S5Config) -> SequenceBlock:
        layer = S5Layer(
            config.d_model,
            config.d_state,
            num_blocks=config.num_blocks,
            discretization=config.discretization,
            dt_min=config.dt_min,
            dt_max=config.dt_max,
            clip_eigs=config.clip_eigs,
        )
        return S5Block(layer, config.activation)
