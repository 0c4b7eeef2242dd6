"""Episodes: what one is, what describes a kind of them, and how a batch is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from pydantic import (
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from datamodules.classification import GaussianMixture
from datamodules.corruption import Distractors, Outliers, flip_labels
from datamodules.curriculum import Curriculum
from datamodules.family import Drawn, SequenceFamily, normal
from datamodules.functions import SEQUENCES, Function
from datamodules.inputs import Inputs, Preconditioned, Sign, Uniform
from datamodules.lazy import torch
from datamodules.linear import Linear, LinearFamily
from datamodules.spec import Probability, Spec
from datamodules.stream import Generators

if TYPE_CHECKING:
    from torch import Tensor

# Numbers of one episode: 8 GiB, more than any training draws in batches.
MAX_EPISODE_SIZE = 2**31
# Episodes of a fixed set that are drawn at once; twice as many, less one, where they are the last.
SET_BATCH = 10_000
# The same of families of long sequences: at most so many, with at most so many numbers.
SEQUENCE_BATCH = 400
SEQUENCE_NUMBERS = 2**23


class Episodes(NamedTuple):
    """A batch of episodes as raw pairs; length = num_context + 1, the last position is the query.

    Attributes:
        x: Inputs, (batch, length, d_x).
        y: What a model may see, noise and distractors included, (batch, length, d_y); zero where
            labels are hidden.
        target: What a prediction is scored on, the clean value, (batch, length, d_y).
        scored: Whether a position counts, bool (batch, length). The last always does.
    """

    x: Tensor
    y: Tensor
    target: Tensor
    scored: Tensor

    def rows(self, start: int, stop: int) -> Episodes:
        """Episodes start, ..., stop - 1 of the batch."""
        return Episodes(*(part[start:stop] for part in self))

    def split(self, size: int) -> Iterator[Episodes]:
        """The batch in parts of `size` episodes; the last may hold fewer."""
        parts = (torch.split(part, size) for part in self)
        return (Episodes(*tensors) for tensors in zip(*parts, strict=True))

    def to(self, device: torch.device | str) -> Episodes:
        """The same episodes on a device."""
        return Episodes(*(part.to(device) for part in self))

    @staticmethod
    def joined(batches: Iterable[Episodes]) -> Episodes:
        """Batches as one."""
        return Episodes(*(torch.cat(parts) for parts in zip(*batches, strict=True)))

    @staticmethod
    def stacked(batches: Iterable[Episodes]) -> Episodes:
        """Batches side by side, every part (num_batches, batch, length, ...)."""
        return Episodes(*(torch.stack(parts) for parts in zip(*batches, strict=True)))

    def unbind(self) -> Iterator[Episodes]:
        """The batches of which this is the stack."""
        return (Episodes(*parts) for parts in zip(*self, strict=True))


class EpisodeSpec(Spec):
    """A kind of episode, as data: names and numbers only.

    Sizes that a family of sequences settles may be left out, or be None.

    Attributes:
        d_x: Width of an input.
        d_y: Width of a label; where labels are classes, the number of them.
        num_context: Number N of examples before the query.
        function: Family of functions or of sequences; `linear` if its data has no name.
        inputs: Input distribution; None for families of sequences, which draw their inputs.
        input_scale: Factor on the inputs it draws, before the function sees them.
        noise: Standard deviation of the gaussian noise on every visible label.
        label_flip: Probability of every visible label to be another class, uniformly drawn.
        distractors: Labels replaced by noise.
        outliers: Examples replaced altogether.
        curriculum: How training episodes grow to the sizes above.
    """

    d_x: PositiveInt = 10
    d_y: PositiveInt = 10
    num_context: PositiveInt = 10
    function: Function = Linear()
    inputs: Inputs | None = Uniform()
    input_scale: PositiveFloat = 1.0
    noise: NonNegativeFloat = 0.0
    label_flip: Probability = 0.0
    distractors: Distractors = Distractors()
    outliers: Outliers = Outliers()
    curriculum: Curriculum | None = None

    @property
    def output(self) -> Literal["value", "logits"]:
        """What a predictor is to return; with `"logits"`, y and target are one-hot."""
        return self.function.output

    @property
    def labels_hidden(self) -> bool:
        """Whether the visible y is zero everywhere."""
        return self.function.labels_hidden

    @property
    def num_numbers(self) -> int:
        """Numbers of an episode: inputs, labels and targets."""
        return (self.num_context + 1) * (self.d_x + 2 * self.d_y)

    @property
    def set_batch(self) -> int:
        """Episodes of a fixed set that are drawn at once."""
        if self.function.whole_sets:
            return SET_BATCH
        return max(1, min(SEQUENCE_BATCH, SEQUENCE_NUMBERS // self.num_numbers))

    @property
    def input_variance(self) -> float:
        """Mean over the coordinates of E x_p^2."""
        if self.inputs is None:
            return 1 / self.d_x  # of one-hot symbols and of keys on the unit sphere
        drawn = self.input_scale**2 * self.inputs.variance * self.inputs.share_in_use(self.d_x)
        if isinstance(self.function, GaussianMixture):  # adds the means of its classes
            return 1 + self.function.spread**2 * drawn
        return drawn

    @property
    def label_variance(self) -> float:
        """Mean over the coordinates of E y_q^2 with noise; of one-hot labels the variance.

        Distractors, outliers and flipped labels are left out. A family that knows no closed form is
        measured on a thousand episodes, always the same ones.
        """
        drawn = self.input_variance
        if self.inputs is not None:
            preconditioned = isinstance(self.inputs, Preconditioned)
            drawn = self.input_scale**2 * (1.0 if preconditioned else self.inputs.variance)
            drawn *= self.inputs.share_in_use(self.d_x)
        known = self.function.label_variance(self.d_x, self.d_y, drawn)
        if known is None:
            target = EpisodeSampler(self).sample(1000, Generators(0, "tune", 0, "cpu")).target
            known = target.square().mean().item()
        return known + self.noise**2

    def mean_function(self) -> Tensor | None:
        """The M (d_y, d_x) that linear functions have in common, None where they do not."""
        if isinstance(self.function, Linear) and self.function.mean_scale > 0:
            return self.function.mean(self.d_x, self.d_y)
        return None

    def sizes(self, step: int | None) -> tuple[int, int]:
        """Leading coordinates of x in use and length of an episode.

        Args:
            step: Optimizer step of a training batch; None for the sizes that training ends at.
        """
        dims, length = self.d_x, self.num_context + 1
        if self.curriculum is not None and step is not None:
            dims = self.curriculum.dims.at(step) if self.curriculum.dims else dims
            length = self.curriculum.points.at(step) if self.curriculum.points else length
        return dims, length

    @field_validator("function", mode="before")
    @classmethod
    def _linear_if_it_has_no_name(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "name" not in value:
            return {"name": "linear", **value}
        return value

    @model_validator(mode="before")
    @classmethod
    def _what_a_sequence_settles(cls, given: Any) -> Any:
        function = given.get("function") if isinstance(given, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if isinstance(name, str) and name in SEQUENCES:
            try:
                function = SEQUENCES[name].model_validate(function)
            except ValidationError:  # which is said where the function is read
                return {part: value for part, value in given.items() if value is not None}
        if not isinstance(function, SequenceFamily):
            return given
        settled = {**function.settles, "inputs": None}
        return {**given, **{n: v for n, v in settled.items() if given.get(n) is None}}

    @model_validator(mode="after")
    def _sequence_fits(self) -> EpisodeSpec:
        if not isinstance(self.function, SequenceFamily):
            return self
        points = self.curriculum.points if self.curriculum is not None else None
        lengths = {self.num_context + 1 if points is None else points.start, self.num_context + 1}
        self.function.check(self.d_x, self.d_y, lengths)
        given = {
            "inputs": self.inputs and self.inputs.name,
            "input_scale": self.input_scale if self.input_scale != 1 else None,
            "noise": self.noise,
            "label_flip": self.label_flip,
            "distractors.count": self.distractors.count,
            "outliers.probability": self.outliers.probability,
            "curriculum.dims": self.curriculum and self.curriculum.dims,
        }
        for setting, found in given.items():
            if found and setting not in self.function.takes:
                raise ValueError(f"function {self.function.name} takes no {setting}, got {found}")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> EpisodeSpec:
        size = (self.num_context + 1) * (self.d_x + self.d_y)
        if size > MAX_EPISODE_SIZE:
            raise ValueError(
                f"(num_context + 1) * (d_x + d_y) must be at most {MAX_EPISODE_SIZE:,}, "
                f"the numbers of one episode, got {size:,}"
            )
        if not isinstance(self.function, SequenceFamily):
            if self.inputs is None:
                raise ValueError(f"function {self.function.name} needs inputs, got none")
            self.function.check(self.d_x, self.d_y, self.inputs.name)
            self.inputs.check(self.d_x, self.function.name)
        if self.distractors.count > self.num_context:
            raise ValueError(
                f"distractors.count must be at most num_context = {self.num_context}, "
                f"got {self.distractors.count}"
            )
        if self.output == "logits" and self.noise > 0:
            raise ValueError(f"labels are classes: use label_flip, got noise = {self.noise}")
        if self.output == "value" and self.label_flip > 0:
            raise ValueError(f"labels are values: use noise, got label_flip = {self.label_flip}")
        return self

    @model_validator(mode="after")
    def _outliers_fit(self) -> EpisodeSpec:
        if self.outliers.probability == 0:
            return self
        if self.output == "logits":
            raise ValueError("outliers are values, and the labels are classes")
        if self.outliers.kind == "orthogonal":
            if not isinstance(self.function, LinearFamily):
                raise ValueError(
                    "orthogonal outliers need a linear function with one W for the episode, "
                    f"got {self.function.name}"
                )
            if isinstance(self.inputs, Preconditioned):
                raise ValueError("orthogonal outliers do not go with preconditioned inputs")
            if self.d_x < self.d_y + 2:
                raise ValueError(
                    f"orthogonal outliers need d_x of at least d_y + 2 = {self.d_y + 2}, "
                    f"got {self.d_x}"
                )
        return self

    @model_validator(mode="after")
    def _curriculum_fits(self) -> EpisodeSpec:
        if self.curriculum is None:
            return self
        dims, points = self.curriculum.dims, self.curriculum.points
        if dims is not None:
            if dims.end != self.d_x:
                raise ValueError(f"curriculum.dims must end at d_x = {self.d_x}, got {dims.end}")
            if isinstance(self.inputs, Sign | Preconditioned):
                raise ValueError(
                    f"curriculum.dims sets coordinates of x to zero; inputs {self.inputs.name} "
                    "have none"
                )
            if self.outliers.probability > 0 and self.outliers.kind == "orthogonal":
                raise ValueError("orthogonal outliers do not go with curriculum.dims")
        if points is not None:
            if points.end != self.num_context + 1:
                raise ValueError(
                    f"curriculum.points must end at num_context + 1 = {self.num_context + 1}, "
                    f"got {points.end}"
                )
            least = max(self.distractors.count, 1) + 1
            if points.start < least:
                raise ValueError(
                    f"curriculum.points must start at {least} or more, for the query and the "
                    f"examples that are distractors, got {points.start}"
                )
        return self


class EpisodeSampler:
    """Draws batches of the episodes that a spec describes."""

    def __init__(self, spec: EpisodeSpec) -> None:
        if isinstance(spec.function, SequenceFamily):
            spec.function.prepare()
        self.spec = spec

    @overload
    def sample(
        self, batch_size: int, generators: Generators, step: int | None = None
    ) -> Episodes: ...

    @overload
    def sample(
        self,
        batch_size: int,
        generators: Generators,
        step: int | None = None,
        *,
        latents: Literal[True],
    ) -> tuple[Episodes, dict[str, Tensor]]: ...

    def sample(
        self,
        batch_size: int,
        generators: Generators,
        step: int | None = None,
        *,
        latents: bool = False,
    ) -> Episodes | tuple[Episodes, dict[str, Tensor]]:
        """Draws a batch, float32, on the device of the generators.

        Weights, inputs, noise and corruption come from a generator each, so that adding noise
        leaves the inputs and functions as they were.

        Args:
            batch_size: Number of episodes.
            generators: Of this batch.
            step: Where a curriculum stands, in optimizer steps; None for its end.
            latents: Whether to return beside the episodes what they were drawn from, by name, each
                (batch, ...): what the family says, `noise_level`, and which labels are distractors.
                The episodes are the same.
        """
        spec = self.spec
        dims, length = spec.sizes(step)
        x, target, scored, of_family, level = self._draw(batch_size, length, dims, generators)
        known = dict(of_family)
        y = target
        if spec.labels_hidden:
            y = target.new_zeros(()).expand_as(target)  # one zero, wherever it is read
        if level is not None:
            level = (level.square() + spec.noise**2).sqrt()
            noise = normal(*y.shape, like=y, generator=generators("noise"))
            y = y + level[:, None, None] * noise
            known["noise_level"] = level
        elif spec.noise > 0:
            y = y + normal(*y.shape, like=y, generator=generators("noise"), scale=spec.noise)
            known["noise_level"] = torch.full_like(y[:, 0, 0], spec.noise)
        if spec.label_flip > 0:
            y = flip_labels(y, spec.label_flip, generators("noise"))
        if scored is None:
            scored = torch.ones(batch_size, length, dtype=torch.bool, device=x.device)
        corruption = generators("corruption")
        if spec.distractors.count > 0:
            y, known["distractor"] = spec.distractors.corrupt(y, spec.output, corruption)
        if spec.outliers.probability > 0:
            W = None
            if spec.outliers.kind == "orthogonal" and isinstance(spec.function, LinearFamily):
                # The generator of the weights starts again: these are those of the targets.
                W = spec.function.weights(x, spec.d_y, generators("weights"))
            x, y, outlier = spec.outliers.corrupt(x, y, W, corruption)
            scored = ~outlier
        if dims < spec.d_x:  # families and outliers may have filled them
            x[:, :, dims:] = 0
        episodes = Episodes(x, y, target, scored)
        return (episodes, known) if latents else episodes

    def _draw(self, batch_size: int, length: int, dims: int, generators: Generators) -> Drawn:
        """Inputs and clean labels."""
        spec = self.spec
        if isinstance(spec.function, SequenceFamily):
            return spec.function.draw(batch_size, length, spec.d_x, spec.d_y, generators)
        assert spec.inputs is not None
        x = spec.inputs.sample((batch_size, length, spec.d_x), generators("inputs"))
        if spec.input_scale != 1:
            x = spec.input_scale * x
        if dims < spec.d_x:
            x[:, :, dims:] = 0
        drawn = spec.function.sample(x, spec.d_y, generators("weights"))
        return drawn._replace(x=spec.inputs.observed(drawn.x))

    def batches(self, num_episodes: int, generators: Generators) -> Iterator[Episodes]:
        """Draws a set of any size in batches, so that memory does not grow with it.

        They follow each other in the sequences of the generators. A set of fewer than 20,000 is one
        batch, as `sample` draws it, and a larger one begins with the first 10,000 of it; where each
        component is drawn by one call, so are all its episodes. Of families that are not drawn as
        whole sets, every batch but the last holds `spec.set_batch` episodes, and those of a small
        set are the first of any larger one.

        Args:
            num_episodes: In the set.
            generators: Of the set.
        """
        size = self.spec.set_batch
        if not self.spec.function.whole_sets:
            for start in range(0, num_episodes, size):
                yield self.sample(size, generators).rows(0, num_episodes - start)
                generators.go_on()
            return
        while num_episodes >= 2 * size:
            yield self.sample(size, generators)
            generators.go_on()
            num_episodes -= size
        yield self.sample(num_episodes, generators)


def create_sampler(spec: EpisodeSpec | Mapping[str, Any]) -> EpisodeSampler:
    """A sampler from a spec or its plain data.

    Raises:
        ValueError: If a name is unknown or a value is out of range; pydantic's text says which.
    """
    return EpisodeSampler(spec if isinstance(spec, EpisodeSpec) else EpisodeSpec(**spec))
