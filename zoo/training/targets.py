"""Objects that a configuration names: which may be built, and building them."""

from collections.abc import Collection
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, TypeVar

from omegaconf import OmegaConf

TARGET = "_target_"
T = TypeVar("T")


def build(name: str, part: dict[str, Any], kind: type[T]) -> T:
    """The object that plain data describe: `_target_` names a class, the rest are its arguments.

    Nothing is read into the data: what was checked is what is built. Arguments with a `_target_`
    are built first.

    Args:
        name: Of the part, for what is said about it.
        part: The data.
        kind: What the object has to be.

    Raises:
        ValueError: If a target is no such thing, or refuses its arguments.
    """
    built = _built(name, part)
    if not isinstance(built, kind):
        raise ValueError(f"{name} must be a {kind.__name__}, got a {type(built).__name__}")
    return built


def targets_of(part: Any) -> set[str]:
    """All `_target_`s in plain data, however deep."""
    if isinstance(part, list):
        return set().union(*map(targets_of, part))
    if not isinstance(part, dict):
        return set()
    own = {str(part[TARGET])} if TARGET in part else set()
    return own.union(*map(targets_of, part.values()))


@cache
def shipped_targets(configs: Path) -> frozenset[str]:
    """The `_target_`s of the configurations in a directory."""
    found = (OmegaConf.to_container(OmegaConf.load(path)) for path in configs.rglob("*.yaml"))
    return frozenset().union(*map(targets_of, found))


def check_targets(part: Any, allowed: Collection[str]) -> None:
    """Raises ValueError if plain data have other `_target_`s than are allowed."""
    others = sorted(targets_of(part) - {*allowed})
    if others:
        raise ValueError(
            f"the run's configuration would build {', '.join(others)}, which no configuration here "
            "does, and so could run any code; if you trust that, add "
            f"'allow_targets=[{','.join(others)}]'"
        )


def _built(name: str, part: Any) -> Any:
    if isinstance(part, list):
        return [_built(f"{name}[{i}]", item) for i, item in enumerate(part)]
    if not isinstance(part, dict):
        return part
    arguments = {k: _built(f"{name}.{k}", value) for k, value in part.items() if k != TARGET}
    if TARGET not in part:
        return arguments
    for key in arguments:
        if not isinstance(key, str) or (key.startswith("_") and key.endswith("_")):
            raise ValueError(f"{name}: {key} is not an argument")
    try:
        target = resolve_name(part[TARGET])
    except Exception as error:  # importing runs the code of the module
        raise ValueError(f"{name}.{TARGET}: {error}") from error
    if not callable(target):
        raise ValueError(f"{name}.{TARGET}: {part[TARGET]} is not a class")
    try:
        return target(**arguments)
    except Exception as error:  # of whatever kind: it is about the arguments that were given
        raise ValueError(f"{name}: {error}") from error
