"""The GD-SSM layer of several steps, with learnable step sizes, start and preconditioner.

Source: "State-space models can learn in-context by gradient descent", arXiv 2410.11687; free
readouts for each step and the learned start are ours.
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, NonNegativeFloat, PositiveInt
from torch import nn

from zoo.layers.gd_ssm import DescentLayer
from zoo.layers.gd_ssm_weights import GDSSMWeights, StepWeights
from zoo.layers.recurrence import Decay, Recurrence, decay_parameters, reset_decay

ShapeE = Literal["matrix", "diagonal", "scalar"]


class StepsConfig(BaseModel):
    """Arguments of `GDSSMStepsLayer`.

    Attributes:
        num_steps: k.
        decay: `"elementwise"` learns a Lambda_bar (d, d) for each recurrence; `"none"` fixes one.
        learn_start: Whether there is a W_0.
        shape_E: `"matrix"`, `"diagonal"` or `"scalar"`.
        precondition: Whether there is a P.
        scale_Q: Standard deviation of the random start of Q_A and Q_B.
        scale_C: Standard deviation of the random start of C, times sqrt(d).
        scale_D: Standard deviation of the random start of D.
        scale_E: Standard deviation of the random start of E, times sqrt(d) for matrices.
        scale_W_0: Standard deviation of the random start of W_0, times sqrt(d_x).
    """

    num_steps: PositiveInt = 1
    decay: Decay = "elementwise"
    learn_start: bool = False
    shape_E: ShapeE = "matrix"
    precondition: bool = False
    scale_Q: NonNegativeFloat = 0.01
    scale_C: NonNegativeFloat = 0.1
    scale_D: NonNegativeFloat = 0.1
    scale_E: NonNegativeFloat = 0.1
    scale_W_0: NonNegativeFloat = 0.1


class GDSSMStepsLayer(DescentLayer):
    """k steps of gradient descent on what two recurrences have collected.

    With the windows S_i of `GDSSMLayer`, two recurrences
    Z_B <- Lambda_bar_B * Z_B + S_i^T Q_B S_i and Z_A <- Lambda_bar_A * Z_A + S_i^T Q_A S_i are read
    out k times, as at `GDSSMWeights`. With Q_B = e_1 e_2^T, Q_A = e_1 e_1^T, no decay and D = e_3,
    Z_B is sum_i x_i y_i^T, Z_A is sum_i x_i x_i^T and o_i is the prediction of k steps from W_0
    with step sizes eta_j = C_j = E_j or, as matrices, P_j. Free C and E reach every polynomial of
    degree k - 1 in Z_A.

    Parameters: `Q_B (3, 3)`, `D (3,)`, `C (k, d, d)`; where E is not empty `Q_A (3, 3)` and `E`,
    which has k - 1 entries, or k with `learn_start`, each (d, d), (d,) or a number by `shape_E`;
    with `learn_start` `W_0 (d_y, d_x)`; with `precondition` `P (k, d, d)`, which starts as the
    identity; with `decay="elementwise"` `Lambda_re_B (d, d)`, `log_step_B (d, 1)` and the same for
    A. Without `precondition` P_j is the identity. Step 1 is first in C, E and P.

    Args:
        d_x: Width of an input.
        d_y: Width of a label; tokens have width d = max(d_x, d_y).
        config: All else.
    """

    ssm_parameters: ClassVar[tuple[str, ...]] = (
        "Lambda_re_A",
        "Lambda_re_B",
        "log_step_A",
        "log_step_B",
    )

    def __init__(self, d_x: int, d_y: int, config: StepsConfig) -> None:
        super().__init__()
        self.config, self.d_x, self.d_token = config, d_x, max(d_x, d_y)
        d, k = self.d_token, config.num_steps
        num_E = k if config.learn_start else k - 1
        decays = config.decay == "elementwise"
        shape_E = {"matrix": (d, d), "diagonal": (d,), "scalar": ()}[config.shape_E]
        # In the order in which the random start is drawn.
        self.Q_A = _parameter(num_E > 0, 3, 3)
        self.Lambda_re_A, self.log_step_A = decay_parameters(num_E > 0 and decays, d)
        self.Lambda_re_B, self.log_step_B = decay_parameters(decays, d)
        self.E = _parameter(num_E > 0, num_E, *shape_E)
        self.W_0 = _parameter(config.learn_start, d_y, d_x)
        self.P = _parameter(config.precondition, k, d, d)
        self.Q_B = nn.Parameter(torch.empty(3, 3))
        self.C = nn.Parameter(torch.empty(k, d, d))
        self.D = nn.Parameter(torch.empty(3))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the random start from torch's global generator."""
        config, root = self.config, math.sqrt(self.d_token)
        if self.Q_A is not None:
            nn.init.normal_(self.Q_A, std=config.scale_Q)
        reset_decay(self.Lambda_re_A, self.log_step_A)
        reset_decay(self.Lambda_re_B, self.log_step_B)
        if self.E is not None:
            nn.init.normal_(self.E, std=config.scale_E / (root if self.E.ndim == 3 else 1))
        if self.W_0 is not None:
            nn.init.normal_(self.W_0, std=config.scale_W_0 / math.sqrt(self.d_x))
        if self.P is not None:
            with torch.no_grad():
                self.P.copy_(torch.eye(self.d_token))
        nn.init.normal_(self.Q_B, std=config.scale_Q)
        nn.init.normal_(self.C, std=config.scale_C / root)
        nn.init.normal_(self.D, std=config.scale_D)

    def weights(self) -> GDSSMWeights:
        none = [None] * len(self.C)
        E = [] if self.E is None else self.E.unbind()
        P = none if self.P is None else self.P.unbind()
        # The E of the first step is there with a start only.
        all_E = [*none[len(E) :], *E]
        steps = tuple(map(StepWeights, self.C.unbind(), all_E, P))
        B = Recurrence(self.Q_B, self.Lambda_re_B, self.log_step_B)
        if self.Q_A is None:
            return GDSSMWeights(B, self.D, steps)
        A = Recurrence(self.Q_A, self.Lambda_re_A, self.log_step_A)
        return GDSSMWeights(B, self.D, steps, A, self.W_0)


def _parameter(wanted: bool, *shape: int) -> nn.Parameter | None:
    return nn.Parameter(torch.empty(shape)) if wanted else None
