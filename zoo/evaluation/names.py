"""Names of what is measured, without torch: solvers, and where checkpoints are."""

import glob
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from zoo.errors import did_you_mean, nearest, unknown
from zoo.hub.directory import CARD, read_card
from zoo.hub.find import CHECKPOINTS
from zoo.registry import list_models, list_solvers

# The episodes that solvers know and are fitted on: those of each setting, or those that all the
# settings of a suite start from.
FitOn = Literal["setting", "base"]


def check_predictors(given: Iterable[str | Mapping[str, Any]]) -> None:
    """Raises ValueError if a name, path or pattern, or the name of a solver, stands for nothing."""
    for item in given:
        if isinstance(item, str) and item not in list_solvers():
            directories_of(item)
        else:
            check_solvers([item])


def check_solvers(given: Iterable[str | Mapping[str, Any]]) -> None:
    """Raises ValueError if a name, or the `name` among arguments, is that of no solver."""
    for item in given:
        name = item if isinstance(item, str) else item.get("name")
        if name is None:
            raise ValueError(f"say which solver, as in {{name: ridge}}, got {item}")
        if name not in list_solvers():
            raise ValueError(unknown("solver", str(name), list_solvers()))


def solver_label(name: str, arguments: Mapping[str, Any]) -> str:
    """What tables call a solver: `name`, or `name(argument=value)`.

    One that has its name from an architecture, as `longhorn` has, is `name (solver)`, so that it is
    not taken for a trained model. Typed is the name alone: models are typed as checkpoints.
    """
    told = [f"{key}={value}" for key, value in arguments.items()]
    if name in list_models():
        return f"{name} ({', '.join(['solver', *told])})"
    return f"{name}({', '.join(told)})" if told else name


def directories_of(given: str) -> list[Path]:
    """The checkpoint directories that a name, path or pattern stands for.

    Raises:
        ValueError: If there is none.
    """
    pattern = Path(given) if os.sep in given else CHECKPOINTS / given
    # A path that is there is no pattern, whatever brackets it has.
    literal = [pattern] if pattern.is_dir() else []
    found = literal or [Path(path) for path in sorted(glob.glob(str(pattern)))]
    found = [path for path in found if (path / CARD).is_file()]
    if not found and literal:
        read_card(pattern)  # says what is missing, and where else there is one
    if not found and glob.has_magic(given):
        raise ValueError(f"the pattern {given!r} matches no checkpoint")
    if not found:
        shipped = [path.parent.name for path in sorted(CHECKPOINTS.glob(f"*/{CARD}"))]
        hint = did_you_mean(nearest(given, [*list_solvers(), *shipped]))
        raise ValueError(
            f"{given!r} is neither a solver nor a checkpoint: no {pattern / CARD}.{hint} Shipped "
            "are those of python -m zoo list, others are named by their path, as in "
            f"runs/NAME/checkpoint; solvers are {', '.join(list_solvers())}"
        )
    return found
