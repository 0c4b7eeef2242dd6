"""The settings of a run: read once from plain data, and objects from there on."""

from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from datamodules.episodes import EpisodeSpec
from zoo.errors import explain
from zoo.registry import ModelSpec, model_arguments
from zoo.training.options import RunOptions, missing

# Arguments of a model that the episodes settle.
OF_THE_EPISODES = ("d_x", "d_y", "output")


class ModelSettings(BaseModel):
    """The episodes, and a model whose widths and kind of prediction follow from them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    data: EpisodeSpec
    model: ModelSpec

    @field_validator("model", mode="plain")
    @classmethod
    def _made_for_the_episodes(cls, given: Any, info: ValidationInfo) -> ModelSpec | None:
        if "data" not in info.data:  # refused already
            return None
        data: EpisodeSpec = info.data["data"]
        if not isinstance(given, dict) or not isinstance(given.get("name", ""), str):
            raise ValueError(f"must have the name of an architecture, got {given!r}")
        if "name" not in given:
            raise missing("model", ["name"], given)
        arguments = dict(given)
        name = arguments.pop("name")
        for settled in OF_THE_EPISODES:
            if settled in given:
                raise ValueError(f"{settled} cannot be set, it follows from data")
        arguments |= {"d_x": data.d_x, "d_y": data.d_y}
        if data.labels_hidden:
            arguments["tokens"] = _tokens_of_inputs(name, arguments, data)
        elif arguments.get("tokens") == "inputs":
            raise ValueError(f"tokens=inputs never reads the labels of {data.function.name}")
        if data.output == "logits":
            if "output" not in model_arguments(name):
                raise ValueError(f"{name} does not predict classes, as data asks for")
            arguments["output"] = data.output
        return ModelSpec.of(name, **arguments)

    @field_serializer("model")
    def _plain(self, model: ModelSpec) -> dict[str, Any]:
        return {"name": model.name, **model.arguments}


def _tokens_of_inputs(name: str, arguments: dict[str, Any], data: EpisodeSpec) -> str:
    """The layout of tokens where labels are hidden; `interleaved` is what the configs have.

    Raises:
        ValueError: If the model has no other than with labels, or another was chosen.
    """
    if "tokens" not in model_arguments(name):
        raise ValueError(f"{name} learns from labels, and those of {data.function.name} are hidden")
    given = arguments.get("tokens", "inputs")
    if given not in ("interleaved", "inputs"):
        raise ValueError(
            f"tokens must be inputs, as the labels of {data.function.name} are hidden, got {given}"
        )
    return "inputs"


class RunSettings(RunOptions, ModelSettings):
    """All settings in `configs/train.yaml`."""

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "RunSettings":
        """Checks plain data, as `configs/train.yaml` has them once they are resolved.

        Raises:
            ValueError: If a setting is missing, unknown or has a wrong value: one line, with the
                dotted name of each that is wrong.
        """
        try:
            return cls(**plain)
        except ValidationError as error:
            raise ValueError(explain(error, plain)) from None
