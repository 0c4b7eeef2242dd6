"""Which parameters train at which rate, and how the rate moves."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from zoo.predictor import Predictor
from zoo.training.options import OptimConfig

# Elements from which on threads of torch share one sum.
SHARED_SUM = 32768


def create_optimizer(model: Predictor, config: OptimConfig, fused: bool = True) -> AdamW:
    """AdamW over the parameter groups of a model, by default in one kernel for each group."""
    groups = parameter_groups(model, config)
    return AdamW(groups, betas=(config.beta1, config.beta2), fused=fused)


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients together, a scalar.

    On a CPU torch adds up one large tensor in an order that depends on the number of threads, and
    the rows of a matrix one by one. So large ones are added up by rows.
    """
    parts = [
        torch.linalg.vector_norm(g, dim=-1) if g.numel() >= SHARED_SUM and g.ndim > 1 else g
        for g in gradients
    ]
    return torch.nn.utils.get_total_norm(parts)


def step_if(optimizer: AdamW, wanted: Tensor, rates: list[Tensor], divisor: Tensor) -> None:
    """A step of fused AdamW that the device decides on, so that nothing waits for it.

    Args:
        optimizer: Its parameters and moments stay as they are where no step is wanted.
        wanted: Whether the step is taken, a bool scalar on the device.
        rates: Of the parameter groups, scalars on the device.
        divisor: Of the gradients.
    """
    groups = optimizer.param_groups
    before = [(group["lr"], group["capturable"]) for group in groups]
    capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
    for group, rate in zip(groups, rates, strict=True):
        group["lr"], group["capturable"] = rate, capturing
    # What gradient scalers tell an optimizer, which passes over a step with infinite gradients.
    told: Any = optimizer
    told.found_inf, told.grad_scale = (~wanted).float(), divisor
    optimizer.step()
    del told.found_inf, told.grad_scale
    for group, (lr, capturable) in zip(groups, before, strict=True):
        group["lr"], group["capturable"] = lr, capturable


def parameter_groups(
    model: Predictor, config: OptimConfig, least_ndim: int = 2
) -> list[dict[str, Any]]:
    """The parameters in up to three named groups: `decay`, `no_decay` and `ssm`.

    Parameters that a module names in its `ssm_parameters` are `ssm`, those in its
    `no_decay_parameters` are `no_decay`. Of the others, matrices are `decay`; vectors, scalars and
    whatever belongs to an embedding are `no_decay`.

    Args:
        model: Whose parameters.
        config: Rates and weight decay of the groups.
        least_ndim: Dimensions of a matrix: 3 where the first counts replicas of the model.
    """
    lr, ssm_lr = config.rates[0]
    groups: dict[str, list[nn.Parameter]] = {"decay": [], "no_decay": [], "ssm": []}
    for module in model.modules():
        ssm_parameters = getattr(module, "ssm_parameters", ())
        no_decay_parameters = getattr(module, "no_decay_parameters", ())
        for name, parameter in module.named_parameters(recurse=False):
            if name in ssm_parameters:
                groups["ssm"].append(parameter)
            elif (
                name in no_decay_parameters
                or parameter.ndim < least_ndim
                or isinstance(module, nn.Embedding)
            ):
                groups["no_decay"].append(parameter)
            else:
                groups["decay"].append(parameter)
    return [
        {
            "name": name,
            "params": parameters,
            "lr": ssm_lr if name == "ssm" else lr,
            "weight_decay": config.weight_decay if name == "decay" else 0.0,
        }
        for name, parameters in groups.items()
        if parameters
    ]


def create_schedule(optimizer: Optimizer, config: OptimConfig, max_steps: int) -> LambdaLR:
    """A schedule that multiplies every group's peak rate; to be stepped once a step."""
    return LambdaLR(optimizer, lambda step: rate_factor(step, config, max_steps))


def rate_factor(step: int, config: OptimConfig, max_steps: int) -> float:
    """Learning rate of optimizer step `step`, counted from 0, as a fraction of its peak."""
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    decay_steps = config.decay_share * max_steps
    decay = min(1.0, (max_steps - step) / decay_steps) if decay_steps > 0 else 1.0
    return max(0.0, warmup * decay)
