"""What the configurations compute: the functions behind `${name:...}` in `configs`.

Registered without torch, so that what follows from other settings is known where they are checked.
"""

import math
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

from datamodules.episodes import EpisodeSpec
from datamodules.inputs import Uniform
from datamodules.text import Text, open_text
from zoo.training.directory import run_directory


def register_resolvers() -> None:
    """Tells OmegaConf; a launcher's process has to be told as well."""
    for name, function, once in (
        ("new_run", run_directory, True),
        ("gpu_or_cpu", gpu_or_cpu, True),
        ("unit_scale", unit_scale, False),
        ("uniform_variance", uniform_variance, False),
        ("text_of", text_of, False),
        ("at_least", at_least, False),
    ):
        OmegaConf.register_new_resolver(name, function, use_cache=once, replace=True)


def gpu_or_cpu() -> str:
    """The accelerator, `cuda` where there is one."""
    # Lightning's own choice may be an Apple GPU, without the float64 of solvers and metrics.
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def unit_scale(part: Literal["x", "y"], *, _root_: DictConfig) -> float:
    """The factor that brings the inputs (x) or labels (y) of a configuration to unit variance.

    To four decimals, so that it is the same number on every machine; of small ones to four digits.
    """
    spec = _spec_of(_root_)
    if spec is None:
        return 1.0
    scale = 1 / math.sqrt(spec.input_variance if part == "x" else spec.label_variance)
    digits = max(4, 3 - math.floor(math.log10(scale)))
    return round(scale, digits)


def at_least(least: int, num_context: int | None, *, _root_: DictConfig) -> int:
    """The examples before the query, or more; where None is given they follow from the function."""
    if num_context is None:
        spec = _spec_of(_root_)
        num_context = least if spec is None else spec.num_context
    return max(least, num_context)


def _spec_of(config: DictConfig) -> EpisodeSpec | None:
    """None where `train` refuses the data, with a better text than a resolver can."""
    data: Any = OmegaConf.to_container(config.data, resolve=True)
    try:
        return EpisodeSpec(**data)
    except ValidationError:
        return None


def uniform_variance(r: float) -> float:
    """The variance of a coordinate of the `uniform` inputs."""
    return Uniform(r=r).variance


def text_of(part: Literal["file", "sha256", "num_bytes"], *, _root_: DictConfig) -> str | int:
    """What a spec says of the text that `text=FILE` names, or of the one in the package."""
    text = Text() if _root_.text is None else open_text(_root_.text)
    value: str | int = getattr(text, part)
    return value
