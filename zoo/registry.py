"""Architectures and solvers by name: one name, one frozen config, one class."""

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from zoo.errors import explain, unknown
from zoo.predictor import Predictor


class PredictorConfig(BaseModel):
    """What every predictor is built from: plain numbers and names, checked and then frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    d_x: PositiveInt
    d_y: PositiveInt


T = TypeVar("T", bound=type[Predictor])

_Entries = dict[str, tuple[type[PredictorConfig], type[Predictor]]]
_models: _Entries = {}
_solvers: _Entries = {}


def register_model(name: str, config: type[PredictorConfig]) -> Callable[[T], T]:
    """Class decorator that registers an architecture; its constructor takes one `config`."""
    return _register(_models, name, config)


def register_solver(name: str, config: type[PredictorConfig]) -> Callable[[T], T]:
    """Class decorator that registers an exact algorithm; its constructor takes one `config`."""
    return _register(_solvers, name, config)


def create_model(name: str, **arguments: Any) -> Predictor:
    """Builds a model from its registered name, e.g. `create_model("gd_ssm", d_x=10, d_y=10)`.

    Raises:
        ValueError: If the name or an argument is unknown or an argument has a wrong value.
    """
    return _create(_models, "model", name, arguments)


def create_solver(name: str, **arguments: Any) -> Predictor:
    """Builds an exact algorithm by name, e.g. `create_solver("least_squares", d_x=10, d_y=1)`.

    Raises:
        ValueError: If the name or an argument is unknown or an argument has a wrong value.
    """
    return _create(_solvers, "solver", name, arguments)


def list_models() -> list[str]:
    """Names that `create_model` knows."""
    return sorted(_models)


def model_arguments(name: str) -> list[str]:
    """Names of the arguments of an architecture.

    Raises:
        ValueError: If the name is unknown.
    """
    return _arguments(_models, "model", name)


def solver_arguments(name: str) -> list[str]:
    """Names of the arguments of a solver.

    Raises:
        ValueError: If the name is unknown.
    """
    return _arguments(_solvers, "solver", name)


def list_solvers() -> list[str]:
    """Names that `create_solver` knows."""
    return sorted(_solvers)


def _register(entries: _Entries, name: str, config: type[PredictorConfig]) -> Callable[[T], T]:
    def decorate(cls: T) -> T:
        if name in entries:
            raise ValueError(f"{name!r} is already registered by {entries[name][1].__name__}")
        entries[name] = (config, cls)
        return cls

    return decorate


def _create(entries: _Entries, kind: str, name: str, arguments: dict[str, Any]) -> Predictor:
    if name not in entries:
        raise ValueError(unknown(kind, name, entries))
    config_class, predictor_class = entries[name]
    for argument in arguments:
        if argument not in config_class.model_fields:
            raise ValueError(unknown(f"argument of {name}", argument, config_class.model_fields))
    try:
        config = config_class(**arguments)
    except ValidationError as error:
        raise ValueError(f"{kind} {name}: {explain(error)}") from None
    build: Any = predictor_class  # registered classes take their own config
    predictor: Predictor = build(config)
    return predictor


def _arguments(entries: _Entries, kind: str, name: str) -> list[str]:
    if name not in entries:
        raise ValueError(unknown(kind, name, entries))
    return list(entries[name][0].model_fields)
