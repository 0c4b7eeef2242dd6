"""Blocks of several architectures in one stack, such as attention among recurrences.

Source of the example: MambaFormer, "Can Mamba Learn How to Learn?", arXiv 2402.04248.
"""

from typing import Any, NamedTuple

from pydantic import Field, ValidationError, model_validator

from zoo.errors import explain, unknown
from zoo.layers.block import SequenceBlock
from zoo.models.sequence import SequenceConfig, SequenceModel, Stack, StackConfig
from zoo.registry import (
    ModelSpec,
    PredictorConfig,
    list_models,
    model_arguments,
    model_class,
    register_model,
)

# What the members of a hybrid have in common, and so is said of the hybrid alone.
SHARED = tuple(SequenceConfig.model_fields)


class Member(NamedTuple):
    """A block of a hybrid, as data.

    Attributes:
        kind: The class of the architecture that it is a block of.
        config: The arguments of that architecture.
    """

    kind: type[Stack[Any]]
    config: PredictorConfig

    def block(self) -> SequenceBlock:
        """The block, with a random start."""
        return self.kind.block(self.config)


class HybridConfig(SequenceConfig):
    """Arguments of `hybrid`, beside those of every deep sequence model.

    Attributes:
        blocks: From the first block to the last, each the name of a deep architecture, or a mapping
            of one name to arguments of its own, such as `{"delta_net": {"d_head": 8}}`.
    """

    blocks: list[Any] = Field(
        default=["mamba", "transformer", "mamba", "transformer"], min_length=1
    )

    @property
    def members(self) -> list[Member]:
        """The blocks with all their arguments.

        Raises:
            ValueError: If a name or an argument is unknown or none of a block.
        """
        return [self._member(place, given) for place, given in enumerate(self.blocks)]

    @model_validator(mode="after")
    def _blocks_are_known(self) -> "HybridConfig":
        _ = self.members
        return self

    def _member(self, place: int, given: Any) -> Member:
        name: Any = given
        arguments: Any = {}
        if isinstance(given, dict) and len(given) == 1:
            ((name, arguments),) = given.items()
        if not (isinstance(name, str) and isinstance(arguments, dict)):
            raise ValueError(
                f"blocks[{place}] must be NAME or {{NAME: {{ARGUMENT: VALUE}}}}, got {given!r}"
            )
        kind = model_class(name) if name in list_models() else None
        if kind is None or not issubclass(kind, Stack):
            raise ValueError(f"blocks[{place}]: {unknown('block', name, block_names())}")
        not_own = {*StackConfig.model_fields, *kind.not_of_a_block}
        own = [argument for argument in model_arguments(name) if argument not in not_own]
        for argument in arguments:
            if argument in SHARED:
                raise ValueError(
                    f"blocks[{place}]: {argument} is that of the hybrid, set beside blocks"
                )
            if argument == "num_layers":
                raise ValueError(f"blocks[{place}]: num_layers is how many blocks are listed")
            if argument not in own:
                what = f"argument of a {name} block"
                raise ValueError(f"blocks[{place}]: {unknown(what, str(argument), own)}")
        shared = {argument: getattr(self, argument) for argument in SHARED}
        try:
            return Member(kind, ModelSpec.of(name, **shared, **arguments).config)
        except ValidationError as error:
            raise ValueError(f"blocks[{place}].{name}: {explain(error)}") from None


def block_names() -> list[str]:
    """The names of the architectures whose blocks a hybrid can have."""
    return [name for name in list_models() if issubclass(model_class(name), Stack)]


@register_model("hybrid", HybridConfig)
class Hybrid(SequenceModel):
    """Residual blocks of deep architectures, in any order.

    A block of `transformer` is attention and its MLP, without positions: a recurrence before it
    tells places apart.
    """

    paper: str = "https://arxiv.org/abs/2402.04248"

    def __init__(self, config: HybridConfig) -> None:
        members = config.members
        super().__init__(config, [member.block() for member in members])
        in_turn = {device for member in members for device in member.kind.replicas_in_turn_on}
        self.replicas_in_turn_on = tuple(sorted(in_turn))
