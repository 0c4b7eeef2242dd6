"""All families of episodes, and episodes of several families of functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import Field, PositiveFloat, model_validator

from datamodules.automaton import Automaton
from datamodules.classification import GaussianMixture, LinearClassification
from datamodules.copying import Induction, NoisyRecall, SelectiveCopy
from datamodules.family import Drawn, FunctionFamily, SequenceFamily
from datamodules.groups import WordProblem
from datamodules.lazy import torch
from datamodules.linear import Linear, LinearDrift, LinearPool, SparseLinear
from datamodules.list_ops import ListOps
from datamodules.nonlinear import DecisionTree, Quadratic, ReluNetwork, Sine, SparseParity
from datamodules.recall import Recall
from datamodules.spec import Spec
from datamodules.tabular import Tabular, TabularClassification
from datamodules.text import Text

if TYPE_CHECKING:
    from torch import Tensor

SingleFunction = (
    Linear
    | SparseLinear
    | LinearPool
    | LinearDrift
    | Quadratic
    | ReluNetwork
    | DecisionTree
    | Sine
    | LinearClassification
    | GaussianMixture
    | SparseParity
    | Tabular
    | TabularClassification
)
Sequence = (
    Recall | WordProblem | Automaton | SelectiveCopy | NoisyRecall | Induction | ListOps | Text
)
# The class of each name.
SEQUENCES: dict[str, type[SequenceFamily]] = {
    family.model_fields["name"].default: family for family in get_args(Sequence)
}


class Weighted(Spec):
    """A function family of a mixture.

    Attributes:
        function: The family.
        weight: Its share, relative to the other weights.
    """

    function: Annotated[SingleFunction, Field(discriminator="name")]
    weight: PositiveFloat = 1.0


class Mixture(FunctionFamily):
    """Each episode has a function of one family; which one is drawn with the weights as odds.

    Source: Bai et al. 2023 (arXiv 2306.04637). Moments are the weighted means of those of the
    families.

    Attributes:
        components: At least two families, all of values or all of classes.
    """

    name: Literal["mixture"] = "mixture"
    components: list[Weighted] = Field(min_length=2)

    @model_validator(mode="after")
    def _one_kind_of_output(self) -> Mixture:
        outputs = {part.function.name: part.function.output for part in self.components}
        if len(set(outputs.values())) > 1:
            raise ValueError(f"a mixture is of values or of classes, not of both, got {outputs}")
        return self

    @property
    def output(self) -> Literal["value", "logits"]:
        return self.components[0].function.output

    def check(self, d_x: int, d_y: int, inputs: str) -> None:
        for part in self.components:
            part.function.check(d_x, d_y, inputs)

    def label_variance(self, d_x: int, d_y: int, input_variance: float) -> float | None:
        total = 0.0
        for part in self.components:
            known = part.function.label_variance(d_x, d_y, input_variance)
            if known is None:
                return None
            total += part.weight * known
        return total / sum(part.weight for part in self.components)

    def sample(self, x: Tensor, d_y: int, generator: torch.Generator) -> Drawn:
        weights = torch.tensor([part.weight for part in self.components], device=x.device)
        choice = weights.multinomial(x.shape[0], replacement=True, generator=generator)
        chosen_x, target, level = x, x.new_empty(*x.shape[:2], d_y), None
        for number, part in enumerate(self.components):
            drawn = part.function.sample(x, d_y, generator)
            if drawn.noise_level is not None:
                level = x.new_zeros(len(x)) if level is None else level
                level = torch.where(choice == number, drawn.noise_level, level)
            chosen = (choice == number)[:, None, None]  # (batch, 1, 1)
            chosen_x = torch.where(chosen, drawn.x, chosen_x)
            target = torch.where(chosen, drawn.target, target)
        return Drawn(chosen_x, target, latents={"component": choice}, noise_level=level)


Function = Annotated[SingleFunction | Mixture | Sequence, Field(discriminator="name")]
