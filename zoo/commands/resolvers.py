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
        ("at_least", max, False),
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
    data: Any = OmegaConf.to_container(_root_.data, resolve=True)
    try:
        spec = EpisodeSpec(**data)
    except ValidationError:
        return 1.0  # `train` refuses these data with a better text than a resolver can
    scale = 1 / math.sqrt(spec.input_variance if part == "x" else spec.label_variance)
    digits = max(4, 3 - math.floor(math.log10(scale)))
    return round(scale, digits)


def uniform_variance(r: float) -> float:
    """The variance of a coordinate of the `uniform` inputs."""
    return Uniform(r=r).variance


def text_of(part: Literal["file", "sha256", "num_bytes"], *, _root_: DictConfig) -> str | int:
    """What a spec says of the text that `text=FILE` names, or of the one in the package."""
    text = Text() if _root_.text is None else open_text(_root_.text)
    value: str | int = getattr(text, part)
    return value
