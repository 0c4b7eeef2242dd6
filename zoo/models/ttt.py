"""Test-time training: a stack of small networks that mini-batches of tokens train.

Source: "Learning to (Learn at Test Time): RNNs with Expressive Hidden States", arXiv 2407.04620.
"""

from typing import ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt

from zoo.layers.block import SequenceBlock
from zoo.layers.mixer import GatedMLP, MixerBlock
from zoo.layers.ttt import TTTLayer
from zoo.models.sequence import Stack, StackConfig
from zoo.registry import register_model


class TTTConfig(StackConfig):
    """Arguments of `ttt_linear`, beside those of every deep model; see `TTTLayer`."""

    num_heads: PositiveInt = 4
    mini_batch: PositiveInt = 16
    base_rate: PositiveFloat = 1.0
    d_conv: PositiveInt = 4


class TTTMLPConfig(TTTConfig):
    """Arguments of `ttt_mlp`: those of `ttt_linear`, with the smaller published rate."""

    base_rate: PositiveFloat = 0.1


class _TestTimeTraining(Stack[TTTConfig]):
    paper: str = "https://arxiv.org/abs/2407.04620"
    network: ClassVar[Literal["linear", "mlp"]]

    @classmethod
    def block(cls, config: TTTConfig) -> SequenceBlock:
        layer = TTTLayer(
            config.d_model,
            cls.network,
            config.num_heads,
            config.mini_batch,
            config.base_rate,
            config.d_conv,
        )
        return MixerBlock(layer, GatedMLP(config.d_model))


@register_model("ttt_linear", TTTConfig)
class TTTLinear(_TestTimeTraining):
    """Residual blocks that train a linear map, and a gated MLP."""

    network = "linear"


@register_model("ttt_mlp", TTTMLPConfig)
class TTTMLP(_TestTimeTraining):
    """Residual blocks that train an MLP, and a gated MLP."""

    network = "mlp"
