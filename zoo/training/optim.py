"""Which parameters train at which rate, and how the rate moves."""

from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from zoo.predictor import Predictor
from zoo.training.options import OptimConfig


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
