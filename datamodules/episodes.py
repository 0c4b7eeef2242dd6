"""Episodes: what one is, what describes a kind of them, and how a batch is drawn."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from datamodules.functions import Linear
from datamodules.inputs import Gaussian, Uniform
from datamodules.spec import Spec
from datamodules.stream import Generators


class Episodes(NamedTuple):
    """A batch of episodes as raw pairs; length = num_context + 1, the last position is the query.

    Attributes:
        x: Inputs, (batch, length, d_x).
        y: What a model may see, noise and distractors included, (batch, length, d_y).
        target: What a prediction is scored on, the clean value, (batch, length, d_y).
        scored: Whether a position counts, bool (batch, length). The last always does.
    """

    x: Tensor
    y: Tensor
    target: Tensor
    scored: Tensor

    def rows(self, start: int, stop: int) -> "Episodes":
        """Episodes start, ..., stop - 1 of the batch."""
        return Episodes(*(part[start:stop] for part in self))


class Distractors(Spec):
    """Labels that say nothing: a random subset of the context, a new one for each episode.

    Source: von Oswald et al. 2022 (arXiv 2212.07677). The targets stay clean.

    Attributes:
        count: How many of the num_context labels are replaced.
        scale: By draws from N(0, scale^2).
    """

    count: NonNegativeInt = 0
    scale: NonNegativeFloat = 1.0


class EpisodeSpec(Spec):
    """A kind of episode, as data: names and numbers only.

    Attributes:
        d_x: Width of an input.
        d_y: Width of a label.
        num_context: Number N of examples before the query.
        function: Function family.
        inputs: Input distribution.
        noise: Standard deviation of the gaussian noise on every visible label.
        distractors: Labels replaced by noise.
    """

    d_x: PositiveInt = 10
    d_y: PositiveInt = 10
    num_context: PositiveInt = 10
    function: Linear = Linear()
    inputs: Annotated[Uniform | Gaussian, Field(discriminator="name")] = Uniform()
    noise: NonNegativeFloat = 0.0
    distractors: Distractors = Distractors()

    @model_validator(mode="after")
    def _fewer_distractors_than_examples(self) -> "EpisodeSpec":
        if self.distractors.count > self.num_context:
            raise ValueError(
                f"distractors.count must be at most num_context = {self.num_context}, "
                f"got {self.distractors.count}"
            )
        return self


class EpisodeSampler:
    """Draws batches of the episodes that a spec describes."""

    def __init__(self, spec: EpisodeSpec) -> None:
        self.spec = spec

    def sample(self, batch_size: int, generators: Generators) -> Episodes:
        """Draws a batch, float32, on the device of the generators.

        Weights, inputs, noise and corruption come from a generator each, so that adding noise
        leaves the inputs and functions as they were.
        """
        spec = self.spec
        length = spec.num_context + 1
        x = spec.inputs.sample((batch_size, length, spec.d_x), generators("inputs"))
        target = spec.function.sample(x, spec.d_y, generators("weights"))
        y = target
        if spec.noise > 0:
            y = y + _normal_like(y, spec.noise, generators("noise"))
        if spec.distractors.count > 0:
            generator = generators("corruption")
            order = torch.rand(
                (batch_size, spec.num_context), generator=generator, device=x.device
            ).argsort(dim=1)
            replaced = torch.zeros(batch_size, length, 1, dtype=torch.bool, device=x.device)
            replaced[:, :-1, 0] = order < spec.distractors.count
            y = torch.where(replaced, _normal_like(y, spec.distractors.scale, generator), y)
        scored = torch.ones(batch_size, length, dtype=torch.bool, device=x.device)
        return Episodes(x, y, target, scored)


def create_sampler(spec: EpisodeSpec | Mapping[str, Any]) -> EpisodeSampler:
    """A sampler from a spec or its plain data.

    Raises:
        ValueError: If a name is unknown or a value is out of range; pydantic's text says which.
    """
    return EpisodeSampler(spec if isinstance(spec, EpisodeSpec) else EpisodeSpec(**spec))


def _normal_like(like: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    return torch.empty_like(like).normal_(0, scale, generator=generator)
