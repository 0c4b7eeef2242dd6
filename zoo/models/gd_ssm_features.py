"""Gradient descent on the last layer of a network: learned features, then a GD-SSM."""

from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from zoo.models.gd_ssm import GDSSMConfig, create_layer
from zoo.models.gd_ssm_base import WindowedPredictor
from zoo.registry import register_model


class GDSSMFeaturesConfig(GDSSMConfig):
    """Arguments of `gd_ssm_features`, beside those of `gd_ssm`.

    Attributes:
        num_features: Width of phi(x).
        num_hidden: Hidden layers of phi.
        d_hidden: Width of each of them.
    """

    num_features: PositiveInt = 20
    num_hidden: NonNegativeInt = 2
    d_hidden: PositiveInt = 64


@register_model("gd_ssm_features", GDSSMFeaturesConfig)
class GDSSMFeatures(WindowedPredictor):
    """A GD-SSM on the pairs (phi(x_i), y_i), with a network phi that context and query share.

    Constructed, it is k steps of gradient descent on the last layer of a network whose features,
    start and step sizes were learned over episodes. phi is a multilayer perceptron with GELU, and
    linear at its end. Source: arXiv 2212.07677 (features before gradient descent) and
    arXiv 2410.11687.
    """

    def __init__(self, config: GDSSMFeaturesConfig) -> None:
        super().__init__(config.d_x, config.d_y, create_layer(config, config.num_features))
        self.output = config.output
        self.heavy_tailed = config.num_steps > 1
        modules: list[nn.Module] = []
        d_in = config.d_x
        for _ in range(config.num_hidden):
            modules += [nn.Linear(d_in, config.d_hidden), nn.GELU()]
            d_in = config.d_hidden
        self.phi = nn.Sequential(*modules, nn.Linear(d_in, config.num_features))

    def tokens(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        # Contiguous: else torch multiplies by another kernel, which rounds differently, where no
        # parameter requires a gradient.
        return self.phi(x.contiguous()), y

    def read_out(self, o: Tensor) -> Tensor:
        return o[..., -self.d_y :]
