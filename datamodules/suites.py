"""Suites: kinds of episodes that differ from given ones in one respect."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from datamodules.episodes import EpisodeSpec


class Setting(BaseModel):
    """How one setting of a suite differs from the episodes it starts from.

    Attributes:
        set: Values by dotted name, such as `{"noise": 0.5, "distractors.count": 2}`.
        times: Factors on the numbers that stand there, by dotted name.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    set: dict[str, Any] = {}
    times: dict[str, float] = {}

    @field_validator("set", "times")
    @classmethod
    def _parts_of_episodes(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name in given:
            if name.partition(".")[0] not in EpisodeSpec.model_fields:
                parts = ", ".join(EpisodeSpec.model_fields)
                raise ValueError(f"{name} is no part of episodes, which have {parts}")
        return given

    def apply(self, spec: EpisodeSpec) -> EpisodeSpec:
        """The episodes of this setting.

        Raises:
            ValueError: If there are no such episodes.
        """
        data = spec.model_dump()
        for name, value in self.set.items():
            part, last = _place(data, name)
            part[last] = value
        for name, factor in self.times.items():
            part, last = _place(data, name)
            number = part.get(last)
            if not isinstance(number, int | float):
                raise ValueError(f"{name} is no number of these episodes")
            product = number * factor
            if isinstance(number, int) and not product.is_integer():
                raise ValueError(f"{name} is whole, got {factor} times {number}")
            part[last] = type(number)(product)
        return type(spec)(**data)

    def fits(self, spec: EpisodeSpec) -> bool:
        """Whether there are such episodes."""
        try:
            self.apply(spec)
        except ValueError:
            return False
        return True


class Suite(BaseModel):
    """Settings under which predictors are compared.

    Attributes:
        axis: What differs between them.
        settings: By name; names that are numbers are places on the axis.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    axis: str
    settings: dict[str, Setting] = Field(min_length=1)

    @field_validator("settings", mode="before")
    @classmethod
    def _names_are_text(cls, given: Any) -> Any:
        return {str(name): s for name, s in given.items()} if isinstance(given, dict) else given


def _place(data: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """The part of nested data that a dotted name ends in, and its last component."""
    *path, last = name.split(".")
    for component in path:
        data = data.get(component)  # type: ignore[assignment]
        if not isinstance(data, dict):
            raise ValueError(f"{name} is no part of these episodes")
    return data, last
