"""What the commands are given: what is wrong is known without torch."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from datamodules.suites import Suite
from zoo.errors import problems
from zoo.evaluation.names import FitOn
from zoo.training.options import RunOptions


class EvaluateSettings(BaseModel):
    """The settings in `configs/evaluate.yaml`, where each is explained, as plain data."""

    model_config = ConfigDict(extra="forbid", strict=True)

    predictors: list[str | dict[str, Any]] = Field(min_length=1)
    compare_with: str | dict[str, Any] | None
    imitates: list[str | dict[str, Any]] | None
    device: str
    fit_on: FitOn
    num_episodes: int = Field(ge=2)
    output: str
    suites: dict[str, Suite] = Field(min_length=1)
    data: dict[str, Any] | None = None


class ReproduceSettings(BaseModel):
    """The settings in `configs/reproduce.yaml`, where each is explained, as plain data."""

    model_config = ConfigDict(extra="forbid", strict=True)

    study: str
    figure: str | list[str]
    quick: bool
    runs: str
    side_by_side: PositiveInt


SETTINGS: dict[str, type[BaseModel]] = {
    "train": RunOptions,
    "evaluate": EvaluateSettings,
    "reproduce": ReproduceSettings,
}


def check_values(command: str, config: Mapping[str, Any]) -> None:
    """Raises ValueError if a setting has a wrong value; what is yet to be resolved is left out.

    Episodes and models are left to the work itself, since their classes need torch.

    Args:
        command: `train`, `evaluate` or `reproduce`.
        config: As composed.
    """
    given = {name: config[name] for name in SETTINGS[command].model_fields if name in config}
    try:
        SETTINGS[command](**given)
    except ValidationError as error:
        settled = [
            wrong
            for wrong in error.errors()
            if wrong["type"] == "missing" or "${" not in str(wrong["input"])
        ]
        if settled:
            raise ValueError(problems(settled, given)) from None
