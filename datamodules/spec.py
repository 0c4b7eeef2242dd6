"""The base of everything a data spec consists of."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt

Probability = Annotated[float, Field(ge=0, le=1)]


class Spec(BaseModel):
    """Names and plain numbers, checked when they are read and frozen afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _rises(ends: list[float | None]) -> list[float | None]:
    low, high = ends
    if low is not None and high is not None and low > high:
        raise ValueError(f"the first must be at most the second, got {ends}")
    return ends


# What is drawn uniformly between two ends, another one for each episode: a number of things, of
# which None is as many as there can be, or a share.
PAIR = Field(min_length=2, max_length=2)
NumbersFrom = Annotated[list[PositiveInt | None], PAIR, AfterValidator(_rises)]
SharesFrom = Annotated[list[Probability], PAIR, AfterValidator(_rises)]


def ends_of(ends: list[int | None], most: int) -> tuple[int, int]:
    """Both ends of numbers, with what None stands for."""
    low, high = (most if end is None else end for end in ends)
    return low, high
