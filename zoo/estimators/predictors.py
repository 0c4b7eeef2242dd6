"""From what an estimator is given as its predictor to the predictor."""

import copy
import os
from collections.abc import Mapping
from typing import Any

import torch

import zoo
from zoo.errors import unknown
from zoo.predictor import Predictor

Given = str | os.PathLike[str] | Predictor


def find_predictor(given: Given, device: str) -> Predictor | None:
    """The model of a checkpoint, or the predictor itself, where it is; None for that of a solver.

    Checkpoints are loaded in float64, so that a prediction does not depend on the queries beside
    it by more than the last digits.

    Raises:
        ValueError: If a name is neither that of a solver nor that of a checkpoint.
        TypeError: If it is nothing of all this.
    """
    if isinstance(given, Predictor):
        return given
    if not isinstance(given, str | os.PathLike):
        raise TypeError(
            f"predictor must be a name, a path or a zoo.Predictor, got {type(given).__name__}"
        )
    if is_solver(given):
        return None
    if isinstance(given, str) and not {".", os.sep, "/"} & {*given}:
        known = [*zoo.list_solvers(), *zoo.list_checkpoints()]
        of_architecture = [name for name in known if name.startswith(f"{given}.")]
        raise ValueError(unknown("solver or checkpoint", given, of_architecture or known))
    return zoo.load(given, device=device, dtype=torch.float64)


def create_solver(
    given: Given, d_x: int, d_y: int, arguments: Mapping[str, Any], device: str
) -> Predictor:
    """The solver of a name."""
    return zoo.create_solver(str(given), d_x=d_x, d_y=d_y, **arguments).to(device)


def place_of(predictor: Predictor, otherwise: str) -> tuple[torch.device, torch.dtype]:
    """Device and type of what a predictor is given; float64 there where it has no parameters."""
    own = next(predictor.parameters(), None)
    if own is None:
        return torch.device(otherwise), torch.float64
    return own.device, own.dtype


def is_solver(given: object) -> bool:
    """Whether it is the name of a solver."""
    return isinstance(given, str) and given in zoo.list_solvers()


def is_name(given: object) -> bool:
    """Whether it is a name, of a solver or a checkpoint, and no place."""
    return isinstance(given, str) and not {os.sep, "/"} & {*given}


def name_of(given: Given) -> str:
    """What messages call it."""
    if not isinstance(given, Predictor):
        return str(given)
    return type(given).__name__ if given.card is None else str(given.card.name)


def without_card(predictor: Predictor) -> Predictor:
    """The same predictor, sharing its weights, without the warnings of one that has a card."""
    quiet = copy.copy(predictor)
    quiet.card = None
    return quiet
