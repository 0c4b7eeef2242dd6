"""What the commands are given: what is wrong is known without torch, but for models."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from datamodules.episodes import EpisodeSpec
from datamodules.suites import Suite
from datamodules.text import check_text_is_read, open_text
from zoo.commands.resolvers import register_resolvers
from zoo.errors import problems
from zoo.evaluation.names import FitOn
from zoo.training.options import RunOptions
from zoo.training.settings import ModelSettings

S = TypeVar("S", bound=BaseModel)


class EvaluateSettings(BaseModel):
    """The settings in `configs/evaluate.yaml`, where each is explained, as plain data."""

    model_config = ConfigDict(extra="forbid", strict=True)

    predictors: Annotated[list[str | dict[str, Any]], Field(min_length=1)] | None
    compare_with: str | dict[str, Any] | None
    imitates: list[str | dict[str, Any]] | None
    device: str
    fit_on: FitOn
    text: str | None = None
    num_episodes: int = Field(ge=2)
    output: str
    suites: dict[str, Suite] = Field(min_length=1)
    data: EpisodeSpec | None = None

    @field_validator("data", mode="before")
    @classmethod
    def _of_their_final_sizes(cls, given: Any) -> Any:
        # A curriculum is a matter of training.
        return {**given, "curriculum": None} if isinstance(given, dict) else given

    @field_validator("data")
    @classmethod
    def _text_is_read(cls, given: EpisodeSpec | None, info: ValidationInfo) -> EpisodeSpec | None:
        if given is not None:
            check_text_is_read(info.data.get("text"), given.function)
        return given


class ReproduceSettings(BaseModel):
    """The settings in `configs/reproduce.yaml`, where each is explained, as plain data."""

    model_config = ConfigDict(extra="forbid", strict=True)

    study: str
    figure: str | list[str]
    quick: bool
    runs: str
    runner: Literal["here", "joblib", "submitit"]
    side_by_side: PositiveInt
    submitit: dict[str, Any]


SETTINGS: dict[str, type[BaseModel]] = {
    "train": RunOptions,
    "evaluate": EvaluateSettings,
    "reproduce": ReproduceSettings,
}
# The settings with `${...}` that are computed here already; that of the trainer asks torch.
COMPUTED = ("data", "model", "suites")


def check_values(command: str, config: Mapping[str, Any]) -> None:
    """Raises ValueError if a setting has a wrong value; what is yet to be resolved is left out.

    Those of a model are left out as well: their classes need torch.

    Args:
        command: `train`, `evaluate` or `reproduce`.
        config: As composed.
    """
    register_resolvers()
    if isinstance(config.get("text"), str):
        open_text(config["text"])
    _check(SETTINGS[command], config)


def check_model(config: Mapping[str, Any]) -> None:
    """Raises ValueError if a model is given what it cannot be made of. Imports torch.

    Args:
        config: As composed for `train`.
    """
    import torch

    settings = _check(ModelSettings, config)
    if settings is not None:
        with torch.random.fork_rng(devices=[]):
            model = settings.model.create()
        model.check_positions(config["positions"])
        model.check_length(settings.data.num_context + 1)


def _check(kind: type[S], config: Mapping[str, Any]) -> S | None:
    """The settings, None where not all of them are known yet."""
    given = {name: _resolved(config, name) for name in kind.model_fields if name in config}
    try:
        return kind(**given)
    except ValidationError as error:
        settled = [
            wrong
            for wrong in error.errors()
            if wrong["type"] == "missing" or "${" not in str(wrong["input"])
        ]
        if settled:
            raise ValueError(problems(settled, given)) from None
        return None


def _resolved(config: Mapping[str, Any], name: str) -> Any:
    """A part of what was composed, with the values that follow from other settings if it can be."""
    if name in COMPUTED:
        whole = OmegaConf.create({key: value for key, value in config.items() if key != "hydra"})
        with suppress(OmegaConfBaseException):
            part = whole[name]
            return OmegaConf.to_container(part, resolve=True) if OmegaConf.is_config(part) else part
    return config[name]
