"""The GD-SSM: alone, on learned features, and between an embedding and a gated linear unit.

Its layer collects the gradient of a least-squares loss in a recurrence, and descends.

Source: "State-space models can learn in-context by gradient descent", arXiv 2410.11687.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import glu

from zoo.layers.gd_ssm import DescentLayer, GDSSMLayer
from zoo.layers.gd_ssm_steps import GDSSMStepsLayer, StepsConfig
from zoo.layers.gd_ssm_weights import GDSSMWeights
from zoo.layers.recurrence import Decay
from zoo.layers.tokens import widen
from zoo.models.gd_ssm_base import WindowedPredictor
from zoo.registry import PredictorConfig, register_model


class GDSSMConfig(StepsConfig, PredictorConfig):
    """Arguments of `gd_ssm`; those of the layer are explained at `StepsConfig`.

    Attributes:
        output: `"logits"` if y is one-hot and predictions are scores of its coordinates.
    """

    output: Literal["value", "logits"] = "value"


def create_layer(config: GDSSMConfig, d_x: int) -> DescentLayer:
    """The layer of a config for inputs of width d_x: the simple one if it does all that is asked.

    One step from zero without a preconditioner is `GDSSMLayer`, everything else `GDSSMStepsLayer`.
    """
    if config.num_steps == 1 and not config.learn_start and not config.precondition:
        scales = config.scale_Q, config.scale_C, config.scale_D
        return GDSSMLayer(max(d_x, config.d_y), config.decay, *scales)
    return GDSSMStepsLayer(d_x, config.d_y, config)


@register_model("gd_ssm", GDSSMConfig)
class GDSSM(WindowedPredictor):
    """A GD-SSM layer of one or several steps on the tokens x_1, y_1, ..., x_N, y_N, x_{N+1}.

    The prediction at position i + 1 is the last d_y coordinates of o_i. Position 0 has no example
    before it and predicts zero, or W_0 x where the start is learned.
    """

    def __init__(self, config: GDSSMConfig) -> None:
        super().__init__(config.d_x, config.d_y, create_layer(config, config.d_x))
        self.output = config.output
        self.heavy_tailed = config.num_steps > 1

    def tokens(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, y

    def read_out(self, o: Tensor) -> Tensor:
        return o[..., -self.d_y :]

    def identifiable_weights(self) -> GDSSMWeights:
        """The weights that the loss determines, up to the symmetries of their scales."""
        return self.layer.weights().identifiable(self.d_x, self.d_y)


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


class GDSSMEmbeddedConfig(PredictorConfig):
    """Arguments of `gd_ssm_embedded`; those of the layer are explained at `GDSSMLayer`.

    Attributes:
        d_model: Width of an embedded token.
    """

    d_model: PositiveInt = 32
    decay: Decay = "elementwise"
    scale_Q: NonNegativeFloat = 0.1
    scale_C: NonNegativeFloat = 1.0
    scale_D: NonNegativeFloat = 1.0


@register_model("gd_ssm_embedded", GDSSMEmbeddedConfig)
class GDSSMEmbedded(WindowedPredictor):
    """One linear map for every token, a GD-SSM layer, a gated linear unit, a linear readout.

    With o_i the layer's output on the embedded windows, the prediction is
    readout(a * sigmoid(b)), (a, b) = gate(o_i). Before the first example o is zero.
    """

    def __init__(self, config: GDSSMEmbeddedConfig) -> None:
        scales = config.scale_Q, config.scale_C, config.scale_D
        layer = GDSSMLayer(config.d_model, config.decay, *scales)
        super().__init__(config.d_x, config.d_y, layer)
        self.embed = nn.Linear(max(config.d_x, config.d_y), config.d_model)
        self.gate = nn.Linear(config.d_model, 2 * config.d_model)
        self.readout = nn.Linear(config.d_model, config.d_y)

    def tokens(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        # The last label is never read. Embedded, it would reach the gradient of the embedding.
        y = torch.cat([y[:, :-1], torch.zeros_like(y[:, -1:])], dim=1)
        x, y = widen(x, y)
        return self.embed(x), self.embed(y)

    def read_out(self, o: Tensor) -> Tensor:
        prediction: Tensor = self.readout(glu(self.gate(o)))
        return prediction


@torch.no_grad()
def construct_gradient_descent_(
    model: GDSSM,
    step_size: float | Sequence[float | Tensor],
    W_0: Tensor | None = None,
    loss: Literal["mse", "cross_entropy"] = "mse",
) -> GDSSM:
    """Sets the weights, in place, that make the model gradient descent on the summed loss.

    One step from zero is Q = e_1 e_2^T, Lambda_bar = 1, D = e_3, C = eta I, with the prediction
    eta sum_i y_i (x_i . x_query) = W_1 x_query at every position. Several steps
    W_j = W_{j-1} - (W_{j-1} A - B^T) P_j, with A = sum_i x_i x_i^T and B = sum_i x_i y_i^T, take
    Q_B = e_1 e_2^T and Q_A = e_1 e_1^T besides, C_j = E_j = eta_j I for step sizes P_j = eta_j I,
    and C_j = E_j = I for matrices. Matrices act on inputs, C_j on labels, so matrices need a model
    with `precondition=True`.

    Args:
        model: A `gd_ssm`.
        step_size: eta for all steps, or one for each of them, a number or a matrix (d_x, d_x), the
            first step first. It multiplies the gradient of the sum over examples of half the
            squared error, or of the cross entropy.
        W_0: Where descent starts, (d_y, d_x), for a model with `learn_start=True`; zero unless
            given.
        loss: `"cross_entropy"` makes it one step of softmax regression from zero, whose gradient
            sum_i (1/K - y_i) x_i^T turns C into eta (I - J/K) on the K label coordinates, where J
            is all ones.

    Returns:
        The same model.

    Raises:
        ValueError: If the number or the shapes of the step sizes do not fit the model, it has no
            place for them or for W_0, or the loss is unknown or needs a single step from zero.
    """
    weights, d_x, d_y = model.layer.weights(), model.d_x, model.d_y
    steps = _checked_step_sizes(weights, step_size, d_x)
    learn_start = weights.W_0 is not None
    if W_0 is not None and not learn_start:
        raise ValueError("W_0 needs a model with learn_start=True")
    if W_0 is not None and W_0.shape != (d_y, d_x):
        raise ValueError(f"W_0 must be ({d_y}, {d_x}), got {tuple(W_0.shape)}")
    if loss not in ("mse", "cross_entropy"):
        raise ValueError(f"loss must be 'mse' or 'cross_entropy', got {loss!r}")
    if loss == "cross_entropy" and (len(steps) > 1 or learn_start):
        raise ValueError(
            "softmax regression is linear in the examples for one step from zero alone, "
            f"got num_steps = {len(steps)}, learn_start = {learn_start}"
        )
    model.layer.construct_(steps, W_0)
    if loss == "cross_entropy":
        C = model.identifiable_weights().steps[0].C  # eta I
        C -= C[0, 0].clone() / d_y
    return model


def _checked_step_sizes(
    weights: GDSSMWeights, step_size: float | Sequence[float | Tensor], d_x: int
) -> list[float | Tensor]:
    """One step size for each step of a layer, or ValueError."""
    num_steps, precondition = len(weights.steps), weights.steps[0].P is not None
    if isinstance(step_size, Tensor):
        raise ValueError(
            "step_size must be a number or a list of one number or matrix for each step, got a "
            f"tensor of shape {tuple(step_size.shape)}"
        )
    steps: list[float | Tensor]
    steps = [step_size] * num_steps if isinstance(step_size, float | int) else [*step_size]
    if len(steps) != num_steps:
        raise ValueError(f"the model takes {num_steps} step sizes, got {len(steps)}")
    for eta in steps:
        if not isinstance(eta, Tensor | float | int):
            raise ValueError(f"a step size must be a number or a matrix, got {eta!r}")
        if isinstance(eta, Tensor) and eta.shape != (d_x, d_x):
            raise ValueError(
                f"a step size must be a number or ({d_x}, {d_x}), got {tuple(eta.shape)}"
            )
        if isinstance(eta, Tensor) and not precondition:
            raise ValueError("step sizes that are matrices need a model with precondition=True")
    return steps
