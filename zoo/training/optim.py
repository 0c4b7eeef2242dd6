"""Which parameters train at which rate, and how the rate moves."""

from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
)
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from zoo.predictor import Predictor


class OptimConfig(BaseModel):
    """AdamW and the course of its learning rate.

    Attributes:
        lr: Peak learning rate.
        ssm_lr: Peak learning rate of the parameters of a state-space recurrence.
        weight_decay: Decoupled, on matrices only; never on the recurrence, biases or norms.
        beta1: Decay of the mean of the gradients.
        beta2: Decay of the mean of their squares.
        warmup_steps: Steps over which the rate rises from zero.
        decay_fraction: Last part of the run, over which the rate falls linearly to zero.
        clip_norm: Largest norm of the gradient; null leaves it as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    lr: PositiveFloat = 3e-3
    ssm_lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    warmup_steps: NonNegativeInt = 100
    decay_fraction: float = Field(default=0.5, ge=0, le=1)
    clip_norm: PositiveFloat | None = 1.0


def create_optimizer(
    model: Predictor, config: OptimConfig, fused: bool = True, stacked: bool = False
) -> AdamW:
    """AdamW over the parameter groups of a model, by default in one kernel for each group."""
    groups = parameter_groups(model, config, stacked)
    return AdamW(groups, betas=(config.beta1, config.beta2), fused=fused)


def parameter_groups(
    model: Predictor, config: OptimConfig, stacked: bool = False
) -> list[dict[str, Any]]:
    """The parameters in up to three named groups: `decay`, `no_decay` and `ssm`.

    Parameters that a module names in its `ssm_parameters` are `ssm`. Of the others, matrices are
    `decay`; vectors, scalars and whatever belongs to an embedding are `no_decay`.

    Args:
        model: Whose parameters.
        config: Rates and weight decay of the groups.
        stacked: Whether the first dimension of every parameter counts replicas of the model.
    """
    least_ndim = 3 if stacked else 2
    groups: dict[str, list[nn.Parameter]] = {"decay": [], "no_decay": [], "ssm": []}
    for module in model.modules():
        ssm_parameters = getattr(module, "ssm_parameters", ())
        for name, parameter in module.named_parameters(recurse=False):
            if name in ssm_parameters:
                groups["ssm"].append(parameter)
            elif parameter.ndim < least_ndim or isinstance(module, nn.Embedding):
                groups["no_decay"].append(parameter)
            else:
                groups["decay"].append(parameter)
    return [
        {
            "name": name,
            "params": parameters,
            "lr": config.ssm_lr if name == "ssm" else config.lr,
            "weight_decay": config.weight_decay if name == "decay" else 0.0,
        }
        for name, parameters in groups.items()
        if parameters
    ]


def create_schedule(optimizer: AdamW, config: OptimConfig, max_steps: int) -> LambdaLR:
    """A schedule that multiplies every group's peak rate; to be stepped once a step."""
    return LambdaLR(optimizer, lambda step: rate_factor(step, config, max_steps))


def rate_factor(step: int, config: OptimConfig, max_steps: int) -> float:
    """Learning rate of optimizer step `step`, counted from 0, as a fraction of its peak."""
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    decay_steps = config.decay_fraction * max_steps
    decay = min(1.0, (max_steps - step) / decay_steps) if decay_steps > 0 else 1.0
    return max(0.0, warmup * decay)
