"""What every family of episodes is, and what families are made with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from datamodules.lazy import torch
from datamodules.spec import Spec, ends_of

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules.stream import Generators


class Drawn(NamedTuple):
    """What a family draws.

    Attributes:
        x: Inputs, (batch, length, d_x).
        target: Clean labels, (batch, length, d_y).
        scored: Whether a position counts, bool (batch, length), at the last always; None where all
            positions do.
        latents: What it was drawn from, by name, each (batch, ...): what no function of x and y can
            know for sure.
        noise_level: Standard deviation of the noise on the visible labels of each episode, beside
            that which a spec asks for, (batch,); None for no noise.
    """

    x: Tensor
    target: Tensor
    scored: Tensor | None = None
    latents: Mapping[str, Tensor] = MappingProxyType({})
    noise_level: Tensor | None = None


class Family(Spec):
    """What all families say of themselves.

    Attributes:
        name: What the family is called in specs.
        labels_hidden: Whether the visible y is zero everywhere: a model sees the inputs alone.
        beside: Names of the exact algorithms of such episodes that every model is measured beside,
            those of all families left out.
        whole_sets: Whether a fixed set is drawn by as few calls as possible, as the numbers in
            cards of regression are; sequences, which may be long, are drawn a few at a time.
    """

    labels_hidden: ClassVar[bool] = False
    beside: ClassVar[tuple[str, ...]] = ()
    whole_sets: ClassVar[bool] = True
    name: str

    @property
    def output(self) -> Literal["value", "logits"]:
        """What a predictor is to return: values, or the logits of d_y classes (y is one-hot)."""
        return "value"

    @property
    def reference(self) -> str:
        """Name of the algorithm whose error those of all models are held against."""
        return {"value": "gradient_descent", "logits": "softmax_gradient_descent"}[self.output]

    def label_variance(self, d_x: int, d_y: int, input_variance: float) -> float | None:
        """Mean over the coordinates of E y_q^2, in closed form; of one-hot labels the variance.

        Noise that the family itself draws counts, that which a spec asks for does not.

        Args:
            d_x: Width of an input.
            d_y: Width of a label.
            input_variance: Mean over the coordinates of E x_p^2.

        Returns:
            The mean over functions and inputs, None where no closed form is known.
        """
        return None

    def tensors(self, d_x: int, d_y: int) -> dict[str, Tensor]:
        """What all episodes share and an exact algorithm has to be told, by name, on the CPU."""
        return {}


class FunctionFamily(Family):
    """What maps the inputs of an episode to its labels: a random function for each episode."""

    def check(self, d_x: int, d_y: int, inputs: str) -> None:
        """Raises ValueError if there is no such function of these widths and inputs."""

    def sample(self, x: Tensor, d_y: int, generator: torch.Generator) -> Drawn:
        """Draws a function for each episode and evaluates it.

        Args:
            x: (batch, length, d_x).
            d_y: Width of a label.
            generator: On the device of x.

        Returns:
            The inputs, as given unless the family says that it moves them, and their labels.
        """
        raise NotImplementedError


class SequenceFamily(Family):
    """What draws the inputs of an episode and their labels together.

    Such episodes take no input distribution. Of what else may be done to episodes, they take what
    `takes` names; a curriculum of lengths is taken where the length is free.

    Attributes:
        takes: Settings of `EpisodeSpec` that go with the family.
    """

    takes: ClassVar[frozenset[str]] = frozenset()
    whole_sets: ClassVar[bool] = False

    @property
    def settles(self) -> dict[str, int]:
        """The sizes d_x, d_y, num_context that follow from the settings of the family."""
        return {}

    @property
    def least_length(self) -> int:
        """Positions that an episode has at least."""
        return 2

    @property
    def most_length(self) -> int | None:
        """Positions that an episode has at most; None for any number."""
        return None

    def check(self, d_x: int, d_y: int, lengths: Collection[int]) -> None:
        """Raises ValueError if there are no episodes of these widths and numbers of positions."""
        given = {"d_x": d_x, "d_y": d_y, "num_context": max(lengths) - 1}
        for size, settled in self.settles.items():
            if given[size] != settled:
                raise ValueError(
                    f"{size} follows from function {self.name} and is {settled}, got {given[size]}"
                )
        least, most = self.least_length, self.most_length
        for length in lengths:
            if length < least or (most is not None and length > most):
                bounds = f"at least {least}" if most is None else f"{least} to {most}"
                raise ValueError(
                    f"an episode of function {self.name} has {bounds} positions, that is "
                    f"num_context + 1, got {length}"
                )

    def prepare(self) -> None:
        """Raises ValueError if what episodes are drawn from is not at hand."""

    def draw(self, batch: int, length: int, d_x: int, d_y: int, generators: Generators) -> Drawn:
        """Draws a batch of episodes.

        Args:
            batch: Number of episodes.
            length: Positions of an episode.
            d_x: Width of an input.
            d_y: Width of a label.
            generators: Of this batch; each component is asked for once.
        """
        raise NotImplementedError

    def named(self, drawn: Drawn) -> tuple[list[str], list[str]]:
        """What each input and each target of the first episode is called."""
        raise NotImplementedError


class SymbolFamily(SequenceFamily):
    """Sequences of symbols: x is one-hot, and the labels, which are classes, are hidden.

    Class j is what the j-th symbol stands for, unless a family says otherwise.
    """

    labels_hidden: ClassVar[bool] = True

    @property
    def symbols(self) -> tuple[str, ...]:
        """What the d_x symbols are called."""
        raise NotImplementedError

    @property
    def classes(self) -> tuple[str, ...]:
        """What the d_y classes are called."""
        raise NotImplementedError

    @property
    def output(self) -> Literal["value", "logits"]:
        return "logits"

    @property
    def reference(self) -> str:
        return "uniform"

    @property
    def settles(self) -> dict[str, int]:
        return {"d_x": len(self.symbols), "d_y": len(self.classes)}

    def label_variance(self, d_x: int, d_y: int, input_variance: float) -> float:
        return (d_y - 1) / d_y**2  # of equal classes

    def named(self, drawn: Drawn) -> tuple[list[str], list[str]]:
        possible = [row.nonzero()[:, 0].tolist() for row in drawn.target[0]]
        return (
            [self.symbols[symbol] for symbol in drawn.x[0].argmax(1).tolist()],
            ["/".join(self.classes[number] for number in numbers) for numbers in possible],
        )


def normal(*shape: int, like: Tensor, generator: torch.Generator, scale: float = 1.0) -> Tensor:
    """Draws from N(0, scale^2), of the type and on the device of `like`."""
    return like.new_empty(shape).normal_(0, scale, generator=generator)


def one_hot(index: Tensor, size: int) -> Tensor:
    """Unit vectors, float32 (..., size), of indices (...)."""
    zero = torch.zeros(*index.shape, size, device=index.device)
    return zero.scatter_(-1, index[..., None], 1.0)


def below(bound: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform integers from 0 to bound - 1, of a shape that the bound broadcasts to."""
    # u is at most 1 - 2^-24, and then the product is rounded to less than the bound.
    return (torch.rand(shape, generator=generator, device=bound.device) * bound).long()


def random_subset(
    batch: tuple[int, ...], size: int, count: int, device: torch.device, generator: torch.Generator
) -> Tensor:
    """Masks with `count` of `size` entries set, uniformly chosen, bool (*batch, size)."""
    order = torch.rand((*batch, size), generator=generator, device=device).argsort(dim=-1)
    return order < count


def drawn_number(
    ends: list[int | None], most: int, batch: int, generator: torch.Generator
) -> Tensor:
    """A whole number for each episode, int64 (batch,), on the device of the generator."""
    low, high = ends_of(ends, most)
    return torch.randint(low, high + 1, (batch,), generator=generator, device=generator.device)


def drawn_share(ends: list[float], batch: int, generator: torch.Generator) -> Tensor:
    """A share for each episode, float32 (batch,), on the device of the generator."""
    low, high = ends
    u = torch.rand(batch, generator=generator, device=generator.device)
    return low + (high - low) * u
